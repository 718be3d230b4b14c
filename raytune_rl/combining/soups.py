"""Averages of weights (model soups): which checkpoints go into one model, and with what shares.

Members that copy from each other stay in one basin of the loss, so the mean of their weights is again a good model, and
often a better one (Wortsman et al. 2022; Izmailov et al. 2018). A population that copies has this advantage instead of
a good ensemble. Only the shares are chosen here; the caller averages the weights and evaluates the averages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from raytune_rl.combining.losses import Array, Floats, comparable

STEPS: Final = (0.15, 0.3, 0.5)
"""Shares that are tried for each further candidate."""
MOST: Final = 16
"""How many candidates are tried: those with the lowest losses."""


def soup_shares(losses: Sequence[float] | Array, judge: Callable[[Floats], Array], *, most: int = MOST) -> Floats:
    """Shares of the candidates in one average, shape (candidates,), which sum to 1.

    This is the greedy recipe of Wortsman et al. (2022, recipe 1), with a choice of shares for each candidate. It starts
    with the best candidate. Each of the next ones is mixed in with shares of 15, 30 and 50 %, and the best of these
    averages is kept if it is better than without. So on the data that ``judge`` uses, the average is never worse than
    the best candidate. If the losses are equal (few rows, all of them right) nothing is mixed in, since each average
    would be more confident than the one before.

    Args:
        losses: of the single candidates, shape (candidates,); those that are not finite are left out.
        judge: maps the shares of n averages, (n, candidates), to the losses of these averages, (n,).
        most: how many candidates are tried.

    Raises:
        ValueError: no candidate's loss is finite.
    """
    alone = np.asarray(losses, dtype=np.float64)
    order = [int(index) for index in np.argsort(alone, kind="stable") if np.isfinite(alone[index])][:most]
    if not order:
        raise ValueError("no candidate's loss is finite")
    single: Floats = np.eye(len(alone))  # shares of the single candidates
    shares: Floats = single[order[0]]
    loss = alone[order[0]]
    for index in order[1:]:
        tried = np.stack([(1.0 - step) * shares + step * single[index] for step in STEPS])
        tried_losses = comparable(np.asarray(judge(tried), dtype=np.float64))
        best = int(tried_losses.argmin())
        if tried_losses[best] < loss:
            shares, loss = tried[best], tried_losses[best]
    return shares
