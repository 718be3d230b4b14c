"""A table that compares runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from raytune_rl.analysis.run import Run
from raytune_rl.errors import BadInput
from raytune_rl.rundir.summary import refit_cost


def compare(runs: Sequence[Run]) -> pd.DataFrame:
    """One row per run, the best first.

    Returns:
        The index holds the shortest names that tell the runs apart. Columns: ``name, agent, seed, finished``; ``best``
        (by validation), ``behind`` (how much worse than the best run's, in the metric's units), ``member, segment``;
        ``test/<metric>`` for the test metrics in the summary; ``segments, steps, train_s, wall_s, overhead_ratio,
        copies, failures``; ``directory``. Segments and training time include the refit's.

    Raises:
        BadInput: no runs, or runs with different metrics.
    """
    if not runs:
        raise BadInput("compare needs at least one run.")
    first = runs[0]
    for run in runs[1:]:
        if (run.metric, run.mode) != (first.metric, first.mode):
            raise BadInput(
                f"{run.directory} is judged by {run.metric} ({run.mode}) and {first.directory} by {first.metric} "
                f"({first.mode}); runs can be compared by the same metric only."
            )
    table = pd.DataFrame([_row(run) for run in runs], index=pd.Index(labels(runs), name="run"))
    best = table["best"].min() if first.mode == "min" else table["best"].max()
    table.insert(list(table.columns).index("best") + 1, "behind", (table["best"] - best).abs())
    return table.sort_values("best", ascending=first.mode == "min", na_position="last", kind="stable")


def labels(runs: Sequence[Run]) -> list[str]:
    """A short and unique name for each run, in the order given."""
    candidates: tuple[Callable[[Run], str], ...] = (  # from the shortest to the most specific
        lambda run: run.name,
        lambda run: run.agent,
        lambda run: f"{run.name}, {run.agent}",
        lambda run: f"{run.agent}, seed {run.seed}",
        lambda run: f"{run.name}, {run.agent}, seed {run.seed}",
        lambda run: run.directory.rstrip("/").rsplit("/", 1)[-1],
        lambda run: run.directory,
    )
    for label in candidates:
        names = [label(run) for run in runs]
        if len(set(names)) == len(names):
            return names
    return [f"{run.directory} ({number})" for number, run in enumerate(runs, start=1)]


def _row(run: Run) -> dict[str, Any]:
    best = run.best
    timing = (run.summary or {}).get("timing") or {}
    copies = run.lineage
    refit_segments, refit_seconds = refit_cost(run.summary)
    tests = {f"test/{n.removeprefix('test_')}": v for n, v in (best.metrics if best else {}).items() if _is_test(n)}
    return {
        "name": run.name,
        "agent": run.agent,
        "seed": run.seed,
        "finished": run.finished,
        "best": best.value if best else float("nan"),
        "member": best.member if best else None,
        "segment": best.segment if best else None,
        **tests,
        "segments": len(run.segments) + refit_segments,
        "steps": int(run.members["steps"].sum()),
        "train_s": float(run.segments["seconds"].sum()) + refit_seconds,
        "wall_s": timing.get("wall_s"),
        "overhead_ratio": timing.get("overhead_ratio"),
        "copies": int((copies["receiver"] != copies["donor"]).sum()),
        "failures": int((run.segments["status"] != "ok").sum()),
        "directory": run.directory,
    }


def _is_test(name: str) -> bool:
    return name.startswith("test_")
