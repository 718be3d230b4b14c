"""A step as Tune's callbacks see it."""

from __future__ import annotations

import pytest

from raytune_rl.controller.policies import PBT
from raytune_rl.tracking.results import entries_of
from tests.controller.worlds import Paper, make_controller


def test_a_step_becomes_one_result_per_member() -> None:
    world = Paper(make_controller(PBT()))
    steps = [world.generation() for _ in range(6)]
    entries = entries_of(steps[2])
    assert [entry.member for entry in entries] == [0, 1, 2, 3]
    for entry, report, opened, reward in zip(entries, steps[2].reports, steps[2].opened, steps[2].rewards, strict=True):
        result = entry.result
        assert result["training_iteration"] == 3
        assert result["loss"] == report.metrics["loss"]
        assert result["hp"] == result["config"] == dict(report.hyperparameters)
        assert result["agent"] == {"reward": reward, "policy_version": opened.policy_version}
        assert result["segment"] == {"steps": 3}
        assert result["time_this_iter_s"] == pytest.approx(0.1)
        assert not entry.over
    assert all(entry.over for entry in entries_of(steps[-1]))


def test_copies_are_shown_where_they_happened() -> None:
    world = Paper(make_controller(PBT()))
    step = world.generation({1: {"copied_from": 3, "copied_segment": 0}})
    kept, copied, *_ = entries_of(step)
    assert "copied_from" not in kept.result["segment"]
    assert copied.result["segment"] == {"steps": 1, "copied_from": 3, "copied_segment": 0}


def test_a_metric_cannot_take_the_place_of_tunes_own_names() -> None:
    world = Paper(make_controller(PBT()))
    step = world.generation({0: {"metrics": {"loss": 1.0, "training_iteration": 99.0}}})
    assert entries_of(step)[0].result["training_iteration"] == 1
