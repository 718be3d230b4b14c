"""The result of a run in two sentences: the first says what was reached, the second how far it can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from raytune_rl.analysis.compare import compare
from raytune_rl.analysis.run import Run
from raytune_rl.records import Incumbent, Mode
from raytune_rl.rundir.summary import origin, refit_cost
from raytune_rl.texts import count, gap, number

Verdict = tuple[str, str]


def verdict(run: Run) -> Verdict:
    """Two sentences about one run."""
    best = run.best
    if run.segments.empty:
        return (
            f"{run.name} has trained nothing yet.",
            "Its first rows come with the first finished segments; make this page again then.",
        )
    if best is None:
        failures = int((run.segments["status"] != "ok").sum())
        why = f"{failures:,} of them failed, hung or diverged; run.log" if failures else "The log, run.log"
        return (
            f"{run.name} reached no finite {run.metric} in {count(len(run.segments), 'segments')}.",
            f"{why} in the run directory says more.",
        )
    ours = _our_side(run, best)
    return (_reached(run, ours), _trust(run, ours))


def verdict_on(runs: Sequence[Run]) -> Verdict:
    """Two sentences about several runs with the same metric.

    Raises:
        BadInput: runs that are judged by different metrics.
    """
    if len(runs) == 1:
        return verdict(runs[0])
    table = compare(runs)
    metric, mode = runs[0].metric, runs[0].mode
    valid = table[np.isfinite(table["best"])]
    if valid.empty:
        return f"None of the {len(runs)} runs has reached a finite {metric}.", "Their run.log files say more."
    rest = valid["best"].iloc[1:]
    first = (
        f"Of {len(runs)} runs, {valid.index[0]} reached the best {metric}, {number(valid['best'].iloc[0])} "
        f"({_direction(mode)} is better)"
    )
    if len(rest) == 1:
        first += f"; {rest.index[0]} reached {number(rest.iloc[0])}"
    elif len(rest):
        first += f"; the others reached {number(rest.iloc[0])} to {number(rest.iloc[-1])}"
    return f"{first}.", f"{_trust_in(table, valid)}."


def _reached(run: Run, best: Incumbent) -> str:
    if not run.finished:
        trained = f"{len(run.segments):,}" + (f" of {run.planned:,}" if run.planned else "")
        return (
            f"{run.name} is not finished ({trained} segments are trained); its best {run.metric} so far is "
            f"{number(best.value)} ({_direction(run.mode)} is better), reached by member {best.member} in segment "
            f"{best.segment}."
        )
    other = _comparison(run)
    by = " with its ensemble" if other is not None and other.get("of") == "ensemble" else ""
    reached = f"{run.name} reached a {run.metric} of {number(best.value)}{by} ({_direction(run.mode)} is better)"
    if other is None:
        delivered = (run.summary or {}).get("best") or {"member": best.member, "segment": best.segment}
        return f"{reached}, with {origin(delivered)}."
    if other["value"] is None:
        return f"{reached}; {other['name']} with {_budget(run, other)} reached no finite value."
    against = f"{other['name']} with {_budget(run, other)} ({number(other['value'])})"
    if other.get("better") is None:
        return f"{reached}, the same as {against}."
    return f"{reached}, {gap(best.value, other['value'], run.mode)} than {against}."


def _trust(run: Run, best: Incumbent) -> str:
    if not run.finished:
        return "There is no verdict before it has ended; if it was interrupted, --resume goes on with it."
    tests = {name: value for name, value in best.metrics.items() if name.startswith("test_")}
    name = _same_on_test(run.metric, tests)
    other = _comparison(run)
    if other is None:
        start = (
            f"On test data, which no choice has seen, its {name} is {number(tests[name])}; nothing"
            if name
            else "Nothing"
        )
        return f'{start} ran beside it, so it does not show what the agent was worth (compare="random" would).'
    chance = "this is one seed, so a difference may be chance"
    theirs = other.get("metrics", {}).get(name) if name else None
    if name is None or theirs is None:
        return f"These are values by which the best were chosen, and {chance}."
    return f"On test data, which no choice has seen, {_on_test(name, tests[name], theirs, run, best, other)}; {chance}."


def _on_test(name: str, ours: float, theirs: float, run: Run, best: Incumbent, other: Mapping[str, Any]) -> str:
    """Both values on test data, and whether they agree with the validation data."""
    values = f"{name} is {number(ours)} against {number(theirs)}"
    further = [n for n in best.metrics if n.startswith("test_") and n != name and n in other["metrics"]]
    more = "".join(f", and {n} {number(best.metrics[n])} against {number(other['metrics'][n])}" for n in further[:1])
    mode = run.mode if name == _test_name(run.metric) else None
    if mode is None or ours == theirs or other.get("better") is None:
        return values + more
    agrees = ((ours < theirs) == (mode == "min")) == other["better"]
    return f"{values}, {gap(ours, theirs, mode)}{'' if agrees else ' and so the other way round'}{more}"


def _trust_in(table: pd.DataFrame, valid: pd.DataFrame) -> str:
    budgets = table["segments"]
    seeds = valid.groupby("agent")["best"].agg(["mean", "size"])
    repeated = bool((seeds["size"] > 1).all())
    means = f"the mean over runs is {_means(seeds)}"
    if budgets.nunique() > 1:
        unequal = f"They did not train equally long ({budgets.min():,} to {budgets.max():,} segments)"
        several = repeated and len(seeds) > 1
        return f"{unequal}; {means}" if several else f"{unequal}, so compare them at the same point of the curves"
    if not repeated:
        return "Not every agent ran more than once, so differences may be chance"
    if len(seeds) > 1:
        return f"By agent, {means}"
    mean, spread = valid["best"].mean(), valid["best"].std(ddof=1)
    return f"All have the same agent; their mean is {number(mean)}, the standard deviation {number(spread)}"


def _means(seeds: pd.DataFrame) -> str:
    return ", ".join(
        f"{agent} {number(row['mean'])} ({count(int(row['size']), 'runs')})" for agent, row in seeds.iterrows()
    )


def _comparison(run: Run) -> Mapping[str, Any] | None:
    return (run.summary or {}).get("comparison")


def _our_side(run: Run, best: Incumbent) -> Incumbent:
    """The run's side of the comparison: the best member, with the ensemble's values if ensembles are compared."""
    other, ensemble = _comparison(run), (run.summary or {}).get("ensemble")
    if other is None or other.get("of") != "ensemble" or ensemble is None or ensemble["value"] is None:
        return best
    return replace(best, value=ensemble["value"], metrics=ensemble["metrics"])


def _budget(run: Run, other: Mapping[str, Any]) -> str:
    same = other.get("segments") == len(run.segments) + refit_cost(run.summary)[0]
    return "the same budget" if same else count(int(other.get("segments") or 0), "segments")


def _direction(mode: Mode) -> str:
    return "lower" if mode == "min" else "higher"


def _test_name(metric: str) -> str:
    return "test_" + metric.removeprefix("validation_").removeprefix("val_")


def _same_on_test(metric: str, tests: Mapping[str, Any]) -> str | None:
    """The test metric that corresponds to ``metric``, or else the first one; None if there is none."""
    own = _test_name(metric)
    return own if own in tests else next(iter(tests), None)
