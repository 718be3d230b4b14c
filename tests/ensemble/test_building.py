from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest
import torch
from torch import nn

from raytune_rl.combining.aggregators import Convex, TopK, Uniform
from raytune_rl.combining.calibration import Calibration, cost_of_doubt
from raytune_rl.combining.losses import losses
from raytune_rl.ensemble import building, pool
from raytune_rl.ensemble.building import build
from raytune_rl.ensemble.kept import Kept
from raytune_rl.ensemble.pool import NoEnsemble
from raytune_rl.ensemble.settings import Ensemble
from raytune_rl.ensemble.validation import on_test_split
from raytune_rl.population.export import restore
from raytune_rl.population.torch_task import TorchTask
from tests.ensemble.members import TASK, trained
from tests.population.models import blobs


def built(settings: Ensemble, task: TorchTask = TASK, **changes):
    kept, segments = trained()
    return build(settings, task, kept, segments, metric="validation_loss", mode="min", seed=0, **changes)


def test_the_ensemble_is_what_its_members_average_to() -> None:
    found = built(Ensemble(calibrate=False))
    inputs = torch.tensor(blobs()[1][0], dtype=torch.float32)
    networks = [restore(TASK.network, one.kept.state) for one in found.members]
    with torch.no_grad():
        mean = sum(one.weight * torch.softmax(n(inputs), 1) for one, n in zip(found.members, networks, strict=True))
        torch.testing.assert_close(found.model(inputs).exp(), mean, rtol=1e-4, atol=1e-6)
    assert found.metrics["validation_loss"] == pytest.approx(
        -float(np.log(mean.numpy()[range(60), blobs()[1][1]]).mean()), rel=1e-4
    )
    assert sum(one.weight for one in found.members) == pytest.approx(1.0)
    assert [one.weight for one in found.members] == sorted((one.weight for one in found.members), reverse=True)


def test_it_is_no_worse_than_the_best_candidate_on_validation() -> None:
    kept, _ = trained()
    inputs, targets = torch.tensor(blobs()[1][0], dtype=torch.float32), blobs()[1][1]
    with torch.no_grad():
        single = np.stack([torch.softmax(restore(TASK.network, k.state)(inputs), 1).numpy() for k in kept])
    found = built(Ensemble())
    assert found.loss <= losses(single, targets, "classification").min() + 1e-6
    assert found.candidates >= len(kept)


def test_calibration_changes_no_answer_and_costs_validation_no_more_than_doubt() -> None:
    plain, calibrated = built(Ensemble(calibrate=False)), built(Ensemble())
    assert calibrated.model.calibration != Calibration()
    assert calibrated.metrics["validation_loss"] <= plain.metrics["validation_loss"] + cost_of_doubt(len(blobs()[1][1]))
    assert calibrated.metrics["validation_accuracy"] == plain.metrics["validation_accuracy"]
    assert {"validation_ece", "validation_brier", "validation_ambiguity"} <= set(calibrated.metrics)


@pytest.mark.parametrize("aggregator", [Uniform(), TopK(k=3), Convex()], ids=repr)
def test_the_size_holds_for_every_aggregator(aggregator) -> None:
    assert 1 <= len(built(Ensemble(aggregator=aggregator, size=2)).members) <= 2


def test_a_latency_that_no_member_keeps_to_makes_none() -> None:
    with pytest.raises(NoEnsemble, match=r"ensemble\.latency is 1e-12 seconds .* fastest candidate takes \d"):
        built(Ensemble(latency=1e-12))
    assert built(Ensemble(latency=60.0, size=3)).members


def timed(monkeypatch: pytest.MonkeyPatch, seconds) -> None:
    """A clock for which an ensemble takes ``seconds(members)``, and each candidate a second."""
    monkeypatch.setattr(pool, "seconds_per_row", lambda model, row: 1.0)
    monkeypatch.setattr(building, "seconds_per_row", lambda model, row: seconds(len(model.members)))


def test_the_latency_is_that_of_the_ensemble_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, lambda members: 0.5 + 1.5 * members)
    settings = Ensemble(latency=4.0, aggregator=Uniform(), soups=False)
    assert len(built(settings).members) == 2  # four would hold by their own times
    timed(monkeypatch, lambda members: 0.1 * members)
    assert len(built(settings).members) == 4


def test_where_one_member_alone_takes_too_long_there_is_no_ensemble(monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, lambda members: 7.0)
    with pytest.raises(NoEnsemble, match=r"latency is 4 seconds .* only the fastest candidate takes 7"):
        built(Ensemble(latency=4.0))


@pytest.mark.parametrize("aggregator", [Uniform(), TopK(k=3)], ids=repr)
def test_members_that_count_alike_are_distinct(aggregator) -> None:
    chosen = [one.kept.member for one in built(Ensemble(aggregator=aggregator, size=16)).members]
    assert len(chosen) == len(set(chosen)) > 1


def test_time_that_is_up_leaves_no_soups(monkeypatch: pytest.MonkeyPatch) -> None:
    deadlines = []

    def soups(*arguments, deadline: float, **keywords):
        deadlines.append(deadline)
        return []

    monkeypatch.setattr(pool, "family_soups", soups)
    began = time.monotonic()
    built(Ensemble(seconds=50.0))
    assert began + 50 <= deadlines[0] < time.monotonic() + 50


def test_soups_are_candidates_where_they_help() -> None:
    """Two states of one member, moved off the same point to opposite sides, average to that point."""
    kept, segments = trained()
    rng = np.random.default_rng(0)
    centre = kept[-1].state
    steps = {name: 0.5 * rng.normal(size=array.shape) for name, array in centre["network"].items()}

    def moved(one: Kept, sign: float) -> Kept:
        network = {n: (a + sign * steps[n]).astype(a.dtype) for n, a in centre["network"].items()}
        return dataclasses.replace(one, state={**centre, "network": network})

    apart = [moved(kept[-2], 1.0), moved(kept[-1], -1.0)]
    found = build(Ensemble(size=1), TASK, apart, segments, metric="validation_loss", mode="min", seed=0)
    assert found.candidates == 3 and found.members[0].kept.origin == "soup"
    assert set(found.members[0].ingredients) == {(3, 2), (3, 3)}
    alone = build(Ensemble(size=1, soups=False), TASK, apart, segments, metric="validation_loss", mode="min", seed=0)
    assert alone.candidates == 2 and found.loss < alone.loss
    strangers = [moved(kept[3], 1.0), moved(kept[-1], -1.0)]  # of members 0 and 3, which never met
    assert build(Ensemble(), TASK, strangers, segments, metric="validation_loss", mode="min", seed=0).candidates == 2


def test_where_time_is_short_fewer_states_are_looked_at(caplog) -> None:
    with caplog.at_level("INFO", logger="raytune_rl"):
        found = built(Ensemble(seconds=1e-9, soups=False))
    assert found.candidates == 1 and "longer than" in caplog.text


def test_without_states_or_with_outputs_of_no_known_kind_there_is_none() -> None:
    _, segments = trained()
    with pytest.raises(NoEnsemble, match="no states"):
        build(Ensemble(), TASK, [], segments, metric="validation_loss", mode="min", seed=0)
    odd = dataclasses.replace(TASK, loss=lambda outputs, targets: nn.functional.cross_entropy(outputs, targets) + 1.0)
    with pytest.raises(NoEnsemble, match="kind"):
        built(Ensemble(), odd)
    assert built(Ensemble(kind="classification"), odd).metrics["validation_loss"] > 1.0


def test_the_test_split_is_judged_by_the_task_itself() -> None:
    found = built(Ensemble())
    tested = on_test_split(found.model, TASK, found.reading)
    assert set(tested) == {"test_loss", "test_accuracy", "test_ece", "test_brier"}
    inputs, targets = blobs()[2]
    with torch.no_grad():
        outputs = found.model(torch.tensor(inputs, dtype=torch.float32))
    loss = nn.functional.cross_entropy(outputs, torch.tensor(targets))
    assert tested["test_loss"] == pytest.approx(float(loss), rel=1e-5)
    assert on_test_split(found.model, dataclasses.replace(TASK, data=lambda: (*blobs()[:2], None)), found.reading) == {}
