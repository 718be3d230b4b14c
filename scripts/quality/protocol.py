"""What was fixed before any result was seen: which row is ranked, what it has to reach, on which runs.

The figures are those of the project's own goals for its controller. To change one after an evaluation is to choose the
result, so a change here belongs into a commit of its own, with its reason.
"""

from __future__ import annotations

from typing import Final

RANKED: Final = "ours, zero-shot"
"""The one row of ours that is ranked. Other rows of ours are shown, and take no part in the ranks of others."""

SIMPLE: Final = "grid + cosine"
"""The best simple baseline by meta-validation (``experiments/controller/LOG.md``, 2026-11-24: 0.710, the best rule
there that has neither copies nor moves)."""

MEMBERS: Final = 8
SEGMENTS: Final = 20
SEEDS: Final = 10
SHORT_SEEDS: Final = 3
"""Of the short form, which is to end within ten minutes on two cores (five until 2026-11-27, with which it took twelve
and more). It shows where things stand; what is judged are runs with ``SEEDS``."""

NOT_IN_SHORT: Final = ("PB2 from grid", "PB2 from grid + cosine")
"""Rows that the short form leaves out unless they are named, for the same reason: PB2's Gaussian processes take half of
the time of all rows."""

FIRST_SEED: Final = 1000
"""Seeds are ``FIRST_SEED`` and those after it; nothing was tuned with them."""

SHORT: Final = (
    ("digits", "adam"),
    ("mnist1d", "sgd"),
    ("german", "adam"),
    ("topics", "sgd"),
    ("topics", "adam"),
    ("diabetes", "adam"),
)
"""Cases of the short form: the two seen ones come first."""

OFFSET: Final = 0.02
"""Losses are averaged over cases as ``ln(loss + OFFSET)``."""

WORST: Final = 1e6
"""What a diverged model's loss is reported as to a peer: few of them take infinity."""

PB2_WORST: Final = 5.0
"""The same for PB2, which is told ``ln(loss + OFFSET)``."""

IMPROVEMENT: Final = 0.65
"""Probability of improvement over each peer that is asked for, its interval above one half."""

TEAM_IMPROVEMENT: Final = 0.6
"""The same of our ensemble over that of the best baseline."""

BUDGET: Final = 0.5
"""Largest share of the budget, in the median over cases, after which the best peer's final score is to be reached."""

JUDGED_AGAINST: Final = 3
"""Where the population is larger than ``MEMBERS``: the best so many peers."""
