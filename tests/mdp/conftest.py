"""Property tests draw the same examples every time, and take as long as a busy machine needs.

Whole lives of members are large examples, so there are few of them.
"""

from hypothesis import settings

settings.register_profile("lives", derandomize=True, deadline=None, max_examples=25)
settings.load_profile("lives")
