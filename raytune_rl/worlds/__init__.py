"""Cheap worlds: whole populations as one batched program, driven by the same controller as real trials.

``cohort`` trains many members of a torch task, ``rollout`` puts controllers over them, ``generator`` makes tasks that
nobody has seen before. No Ray.
"""
