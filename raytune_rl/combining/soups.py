"""Averages of weights: which checkpoints go into one model, and in what shares.

Members that copy from each other stay in one basin of the loss, so that the mean of their weights is a model again, and
often a better one (Wortsman et al. 2022; Izmailov et al. 2018). That is what a population that copies has instead of a
good ensemble. Here only shares are chosen; whoever calls averages and judges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from raytune_rl.combining.losses import Array, Floats, comparable

STEPS: Final = (0.15, 0.3, 0.5)
"""Shares at which a further ingredient is tried."""
MOST: Final = 16
"""Candidates that are tried, the best ones by themselves."""


def soup_shares(losses: Sequence[float] | Array, judge: Callable[[Floats], Array], *, most: int = MOST) -> Floats:
    """Shares of the candidates in one average, shape (candidates,), adding up to 1.

    The greedy recipe of Wortsman et al. (2022, recipe 1) with a step of its own for each ingredient: from the best
    candidate on, the next one is stirred in at 15, 30 and 50 %, and the best of these stays if it makes the average
    better. So the average is never worse than the best candidate on the data that ``judge`` sees; among equals (few
    rows, all of them right) nothing is stirred, since each average would be surer of itself than the one before.

    Args:
        losses: of the candidates by themselves, shape (candidates,); those that are not finite are left out.
        judge: the losses of averages, shape (n,), for their shares, shape (n, candidates).
        most: candidates that are tried.

    Raises:
        ValueError: no candidate's loss is finite.
    """
    alone = np.asarray(losses, dtype=np.float64)
    order = [int(index) for index in np.argsort(alone, kind="stable") if np.isfinite(alone[index])][:most]
    if not order:
        raise ValueError("no candidate's loss is finite")
    each: Floats = np.eye(len(alone))
    shares: Floats = each[order[0]]
    loss = alone[order[0]]
    for index in order[1:]:
        tried = np.stack([(1.0 - step) * shares + step * each[index] for step in STEPS])
        found = comparable(np.asarray(judge(tried), dtype=np.float64))
        best = int(found.argmin())
        if found[best] < loss:
            shares, loss = tried[best], found[best]
    return shares
