"""What the results say: ranks, probability of improvement, budget needed, each with its uncertainty."""

from __future__ import annotations

import numpy as np
import pandas as pd

DRAWS = 2000
"""Bootstrap draws: of tasks, and of seeds within them."""


def incumbents(validation: np.ndarray, test: np.ndarray) -> np.ndarray:
    """The test value of the best by validation after each member-segment: (seeds, budget), from (seeds, budget)."""
    safe = np.where(np.isfinite(validation), validation, np.inf)
    best = np.zeros(safe.shape, dtype=np.int64)
    for column in range(1, safe.shape[1]):
        before = best[:, column - 1]
        better = safe[:, column] < safe[np.arange(len(safe)), before]
        best[:, column] = np.where(better, column, before)
    return np.take_along_axis(test, best, axis=1)


def table(finals: pd.DataFrame) -> pd.DataFrame:
    """A row per method, best mean rank in log-loss first.

    Args:
        finals: columns ``case, method, seed, loss, accuracy`` (NaN for regression).
    """
    loss = finals.groupby(["case", "method"])["loss"].mean().unstack()
    accuracy = finals.groupby(["case", "method"])["accuracy"].mean().unstack().dropna(how="all")
    rows = pd.DataFrame(
        {
            "rank_loss": loss.rank(axis=1).mean(),
            "rank_accuracy": accuracy.rank(axis=1, ascending=False).mean(),
            "log_loss": np.log(loss + 0.02).mean(),
            "accuracy": accuracy.mean(),
        }
    )
    return rows.sort_values("rank_loss")


def improvement(finals: pd.DataFrame, ours: str, peer: str, *, seed: int = 0) -> tuple[float, float, float]:
    """Probability that a run of ``ours`` beats one of ``peer`` on the same case (ties count half), and its 95 %
    interval by a bootstrap stratified by cases (Agarwal et al. 2021, section 4.3)."""
    wins = []
    for _, case in finals.groupby("case"):
        values = [case.loc[case["method"] == name, "loss"].to_numpy() for name in (ours, peer)]
        wins.append(np.sign(values[1][None, :] - values[0][:, None]) / 2 + 0.5)
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(DRAWS):
        parts = []
        for matrix in wins:
            rows, columns = (rng.integers(size, size=size) for size in matrix.shape)
            parts.append(matrix[np.ix_(rows, columns)].mean())
        draws.append(np.mean(parts))
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(np.mean([matrix.mean() for matrix in wins])), float(low), float(high)


def budget_to_match(curves: dict[str, dict[str, np.ndarray]], ours: str, peer: str) -> float:
    """The median over cases of the share of the budget after which the mean curve of ``ours`` is as good as the final
    value of ``peer``; 1.0 where it never is."""
    shares = []
    for case in curves.values():
        target = case[peer].mean(axis=0)[-1]
        reached = np.flatnonzero(case[ours].mean(axis=0) <= target)
        shares.append((reached[0] + 1) / case[ours].shape[1] if len(reached) else 1.0)
    return float(np.median(shares))
