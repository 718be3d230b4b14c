from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from raytune_rl import BadInput
from raytune_rl.analysis import Run, compare
from raytune_rl.analysis.compare import labels


def changed(run: Run, **fields: Any) -> Run:
    return replace(run, experiment={**run.experiment, "experiment": {**run.fields, **fields}})


def test_runs_stand_side_by_side_the_best_first(run: Run, other: Run) -> None:
    table = compare([other, run])
    assert table.index.tolist() == ["PBT(quantile=0.25)", "Random"]
    assert table["best"].is_monotonic_increasing and table["behind"].iloc[0] == 0
    assert table["behind"].iloc[1] == table["best"].iloc[1] - table["best"].iloc[0]
    first = table.iloc[0]
    assert run.best is not None
    assert (first["best"], first["member"], first["segments"]) == (run.best.value, run.best.member, 96)
    assert first["copies"] == run.members["copies_taken"].sum() and first["failures"] == 2
    assert first["test/loss"] == 0.4 and first["overhead_ratio"] == pytest.approx(1.3)
    assert table["finished"].tolist() == [True, False]


def test_the_direction_decides_who_is_first(run: Run, other: Run) -> None:
    up = [changed(r, metric="accuracy", mode="max") for r in (replace(run, summary=None), other)]
    table = compare(up)
    assert table["best"].is_monotonic_decreasing and (table["behind"] >= 0).all()


def test_runs_by_other_metrics_are_not_comparable(run: Run, other: Run) -> None:
    with pytest.raises(BadInput, match=r"accuracy \(min\).*loss \(min\)"):
        compare([run, changed(other, metric="accuracy")])
    with pytest.raises(BadInput, match="at least one"):
        compare([])


def test_names_are_as_short_as_they_can_be(run: Run) -> None:
    def named(name: str, seed: int, directory: str) -> Run:
        return replace(run, directory=directory, experiment={**run.experiment, "name": name, "seed": seed})

    agent = run.agent
    assert labels([named("a", 0, "x/1"), named("b", 0, "x/2")]) == ["a", "b"]
    assert labels([named("a", 0, "x/1"), named("a", 1, "x/2")]) == [f"{agent}, seed 0", f"{agent}, seed 1"]
    assert labels([named("a", 0, "x/1"), named("a", 0, "x/2")]) == ["1", "2"]
    assert labels([named("a", 0, "x/1"), named("a", 0, "y/1")]) == ["x/1", "y/1"]
    assert labels([named("a", 0, "x"), named("a", 0, "x")]) == ["x (1)", "x (2)"]
