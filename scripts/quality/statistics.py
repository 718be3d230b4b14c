"""What the results say: ranks, probability of improvement, budget needed, each with its uncertainty.

Intervals are 95 % percentile bootstraps over seeds, stratified by case (Agarwal et al. 2021, section 4): every case is
in every draw, so they speak of other seeds on these cases, and not of other cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd

from quality.harness import Result
from quality.protocol import OFFSET

DRAWS = 2000
Interval = tuple[float, float, float]
"""A figure, and the two ends of its interval."""

Curves = Mapping[str, Mapping[str, np.ndarray]]
"""By case and method: the test loss of the model that the method would give after each member-segment, (seeds,
budget)."""


def judged(result: Result, figure: Literal["test", "accuracy"]) -> np.ndarray:
    """Of the model that a method would give after each member-segment, (seeds, budget): its best checkpoint by
    validation, or, where it delivers averages, the one after the last segment that all members have trained (before
    there is such a segment, the best checkpoint)."""
    plain: np.ndarray = incumbents(result.validation, getattr(result, figure))
    if result.delivered is None:
        return plain
    averages = getattr(result.delivered, figure)
    members, rest = divmod(plain.shape[1], averages.shape[1])
    assert rest == 0
    done = np.arange(1, plain.shape[1] + 1) // members
    return np.where(done > 0, averages[:, np.maximum(done - 1, 0)], plain)


def incumbents(validation: np.ndarray, test: np.ndarray) -> np.ndarray:
    """The test value of the best by validation after each member-segment: (seeds, budget), from (seeds, budget)."""
    safe = np.where(np.isfinite(validation), validation, np.inf)
    best = np.zeros(safe.shape, dtype=np.int64)
    for column in range(1, safe.shape[1]):
        before = best[:, column - 1]
        better = safe[:, column] < safe[np.arange(len(safe)), before]
        best[:, column] = np.where(better, column, before)
    return np.take_along_axis(test, best, axis=1)


def table(finals: pd.DataFrame, unranked: Sequence[str] = (), *, stand_in: str = "", seed: int = 0) -> pd.DataFrame:
    """A row per method, best mean rank in log-loss first.

    Args:
        finals: columns ``case, method, seed, loss, accuracy`` (NaN for regression); as many seeds for all.
        unranked: methods that count in nobody's rank; their own is what it would be in place of ``stand_in``.

    Returns:
        ``rank_loss``, ``rank_accuracy`` (means over cases; accuracy: over classifications), ``log_loss`` (mean of
        ``ln(loss + OFFSET)``), ``accuracy``, ``iqm``; with ``_low`` and ``_high`` their intervals.
    """
    loss, accuracy = _cube(finals, "loss"), _cube(finals, "accuracy")
    names = loss.index.get_level_values("method").unique()
    compared = [[i for i, name in enumerate(names) if name not in unranked]]
    for name in unranked:
        if name in names:
            others = [i for i in compared[0] if names[i] != stand_in]
            compared.append([*others, list(names).index(name)])
    draws = _resampled(loss, seed), _resampled(accuracy, seed)
    figures = {
        "rank_loss": (_mean_ranks, _values(loss), draws[0], 1.0),
        "rank_accuracy": (_mean_ranks, _values(accuracy), draws[1], -1.0),
    }
    found = pd.DataFrame(index=names)
    for name, (figure, values, resampled, sign) in figures.items():
        middle = figure(sign * values.mean(axis=-1)[None], compared)[0]
        spread = figure(sign * resampled.mean(axis=-1), compared)
        _write(found, name, middle, spread)
    logs, log_draws = np.log(_values(loss) + OFFSET), np.log(draws[0] + OFFSET)
    _write(found, "log_loss", logs.mean(axis=(0, 2)), log_draws.mean(axis=(1, 3)))
    _write(found, "accuracy", np.nanmean(_values(accuracy), axis=(0, 2)), np.nanmean(draws[1], axis=(1, 3)))
    if "random" in names:
        scores = normalised(loss)
        _write(found, "iqm", _iqm(scores[None])[0], _iqm(_take(scores, seed)))
    return found.sort_values("rank_loss")


def normalised(loss: pd.DataFrame) -> np.ndarray:
    """Scores (cases, methods, seeds) of ``ln(loss + OFFSET)``: 0 is what random search reaches in the mean of a case, 1
    what the best method of that case does. One minus a score is the normalised regret."""
    values = np.log(_values(loss) + OFFSET)
    names = list(loss.index.get_level_values("method").unique())
    means = values.mean(axis=2)
    zero = means[:, names.index("random")][:, None, None]
    one = means.min(axis=1)[:, None, None]
    return np.asarray((zero - values) / np.maximum(zero - one, 1e-6))


def improvement(finals: pd.DataFrame, ours: str, peer: str, *, figure: str = "loss", seed: int = 0) -> Interval:
    """Probability that a run of ``ours`` beats one of ``peer`` on the same case (ties count half): the mean over cases,
    and its interval. ``figure``: ``"loss"``, or ``"accuracy"``, of which more is better."""
    sign = -1.0 if figure == "accuracy" else 1.0
    rng = np.random.default_rng(seed)
    means, draws = [], []
    for _, case in finals.groupby("case"):
        mine, theirs = (sign * case.loc[case["method"] == name, figure].to_numpy() for name in (ours, peer))
        if np.isnan(mine).all():
            continue
        wins = np.sign(theirs[None, :] - mine[:, None]) / 2 + 0.5
        rows, columns = (rng.multinomial(n, np.full(n, 1.0 / n), size=DRAWS) / n for n in wins.shape)
        means.append(wins.mean())
        draws.append(np.einsum("di,ij,dj->d", rows, wins, columns))
    low, high = np.quantile(np.mean(draws, axis=0), [0.025, 0.975])
    return float(np.mean(means)), float(low), float(high)


def budget_to_match(curves: Curves, ours: str, peer: str | None = None, peers: Sequence[str] = ()) -> float:
    """The median over cases of the share of the budget after which the mean curve of ``ours`` is as good as the final
    value of ``peer``, or of the best of ``peers`` in that case. It is infinite where that never happens."""
    shares = []
    for case in curves.values():
        target = min(float(case[name].mean(axis=0)[-1]) for name in ([peer] if peer else peers))
        reached = np.flatnonzero(case[ours].mean(axis=0) <= target)
        shares.append((reached[0] + 1) / case[ours].shape[1] if len(reached) else np.inf)
    return float(np.median(shares))


def against_simple(finals: pd.DataFrame, ours: str, simple: str) -> pd.DataFrame:
    """A row per case: mean test losses ``ours`` and ``simple``, ``deviation`` of the latter over seeds, and whether
    ours ``loses`` by more than that."""
    grouped = finals.groupby(["case", "method"])["loss"]
    mean, deviation = grouped.mean().unstack(), grouped.std().unstack()
    found = pd.DataFrame({"ours": mean[ours], "simple": mean[simple], "deviation": deviation[simple].fillna(0.0)})
    found["loses"] = found["ours"] > found["simple"] + found["deviation"]
    return found


def anytime_ranks(curves: Curves) -> pd.DataFrame:
    """Mean rank over cases of every method's mean curve, after each member-segment: (budget, methods)."""
    names = list(next(iter(curves.values())))
    means = np.array([[case[name].mean(axis=0) for name in names] for case in curves.values()])
    return pd.DataFrame(_ranks(means, axis=1).mean(axis=0).T, columns=names)


def mean_interval(values: np.ndarray, *, seed: int = 0) -> Interval:
    """Mean of values (N,), and its bootstrapped interval."""
    rng = np.random.default_rng(seed)
    draws = rng.choice(values, (DRAWS, len(values))).mean(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def _cube(finals: pd.DataFrame, figure: str) -> pd.DataFrame:
    """Rows by case and method, a column per seed, everything in a fixed order."""
    return finals.pivot_table(index=["case", "method"], columns="seed", values=figure, dropna=False).sort_index()


def _values(cube: pd.DataFrame) -> np.ndarray:
    """(cases, methods, seeds)."""
    cases, methods = (len(cube.index.get_level_values(level).unique()) for level in ("case", "method"))
    return np.asarray(cube.to_numpy().reshape(cases, methods, -1))


def _resampled(cube: pd.DataFrame, seed: int) -> np.ndarray:
    return _take(_values(cube), seed)


def _take(values: np.ndarray, seed: int) -> np.ndarray:
    """(draws, cases, methods, seeds) from (cases, methods, seeds), the seeds drawn anew for every case and method."""
    rng = np.random.default_rng(seed)
    draws = DRAWS if values.size < 3000 else DRAWS // 4
    index = rng.integers(values.shape[2], size=(draws, *values.shape))
    return np.take_along_axis(np.broadcast_to(values, index.shape), index, axis=3)


def _ranks(values: np.ndarray, axis: int) -> np.ndarray:
    """From 1 for the smallest; equal values share the mean of their ranks."""
    moved = np.moveaxis(values, axis, -1)
    below = (moved[..., None, :] < moved[..., :, None]).sum(axis=-1)
    equal = (moved[..., None, :] == moved[..., :, None]).sum(axis=-1)
    return np.moveaxis(below + (equal + 1) / 2, -1, axis)


def _mean_ranks(means: np.ndarray, compared: Sequence[Sequence[int]]) -> np.ndarray:
    """(draws, methods) from (draws, cases, methods). Cases without a value (NaN) are left out; of every group of
    ``compared`` but the first only the last member's rank is taken."""
    valid = ~np.isnan(means).any(axis=(0, 2))
    found = np.full((len(means), means.shape[2]), np.nan)
    if not valid.any():
        return found
    for number, group in enumerate(compared):
        ranks = _ranks(means[:, valid][..., list(group)], axis=2).mean(axis=1)
        if number == 0:
            found[:, list(group)] = ranks
        else:
            found[:, group[-1]] = ranks[:, -1]
    return found


def _iqm(scores: np.ndarray) -> np.ndarray:
    """Interquartile mean over cases and seeds: (draws, methods) from (draws, cases, methods, seeds)."""
    flat = np.sort(np.moveaxis(scores, 2, 1).reshape(len(scores), scores.shape[2], -1), axis=-1)
    cut = flat.shape[-1] // 4
    return np.asarray(flat[..., cut : flat.shape[-1] - cut].mean(axis=-1))


def _write(found: pd.DataFrame, name: str, middle: np.ndarray, draws: np.ndarray) -> None:
    found[name] = middle
    found[f"{name}_low"], found[f"{name}_high"] = (
        np.quantile(draws, [0.025, 0.975], axis=0) if np.isfinite(draws).all() else np.full((2, len(middle)), np.nan)
    )
