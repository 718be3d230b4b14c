"""What a refit delivers: the copies' average, judged on each row by copies that have not seen it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raytune_rl import load
from raytune_rl.combining.calibration import Calibration
from raytune_rl.ensemble.delivery import Delivered, delivered_model
from raytune_rl.ensemble.kept import Kept
from raytune_rl.ensemble.refit_model import refitted_model
from raytune_rl.population.calibrating import calibrated
from raytune_rl.population.candidate import MemberContext
from raytune_rl.population.cross_fitting import held_by
from raytune_rl.population.export import restore
from raytune_rl.population.refit_task import ALL_ROWS, Refit
from tests.ensemble.members import NOISY, noisy
from tests.population.models import blobs

COPIES = 4
SETTINGS: Any = {"copies": COPIES, "metric": "validation_loss", "mode": "min"}


def before() -> Delivered:
    found = delivered_model(NOISY, noisy(), metric="validation_loss", mode="min", plain=True)
    assert found is not None
    return found


def copies(start: Delivered, members: int = COPIES) -> list[Kept]:
    of = Refit.of(NOISY, dict(start.state), copies=COPIES)
    kept = []
    for member in range(members):
        one = of.build(MemberContext(member=member, seed=member), {"lr": 0.003, "dropout": 0.1})
        one.train(10)
        kept.append(Kept(member=member, segment=0, origin="final", state=one.get_state()))
    return kept


def test_it_is_the_copies_average() -> None:
    start = before()
    finals = copies(start)
    found = refitted_model(start, finals, **SETTINGS)
    assert found is not None
    for name, array in found.state["network"].items():
        mean = np.mean([one.state["network"][name] for one in finals], axis=0)
        np.testing.assert_allclose(array, mean, rtol=1e-5, atol=1e-6)
    assert found.parts == start.parts and found.state["hyperparameters"] == start.state["hyperparameters"]
    assert found.refit == {"copies": 4, "examples": 180, "before": start.value}
    assert found.metrics["train_loss"] == pytest.approx(np.mean([one.state["metrics"]["train_loss"] for one in finals]))
    assert found.calibration not in (Calibration(), start.calibration)


def test_its_value_is_what_copies_say_of_rows_that_they_have_not_seen() -> None:
    start = before()
    finals = copies(start)
    found = refitted_model(start, finals, **SETTINGS)
    assert found is not None
    inputs, targets = (torch.tensor(part) for part in blobs()[1])
    said = torch.empty(len(targets), 3)
    for one in finals:
        held = held_by(one.member, COPIES, len(targets))
        with torch.no_grad():
            said[held] = restore(NOISY.network, one.state)(inputs[held].float())
    loss = NOISY.loss(calibrated(said, found.calibration, binary=False), targets)
    assert found.value == found.metrics["validation_loss"] == pytest.approx(float(loss), rel=1e-5)


def test_what_is_written_says_so_and_predicts_the_same_when_loaded(tmp_path: Path) -> None:
    start = before()
    found = refitted_model(start, copies(start), **SETTINGS)
    assert found is not None and found.export(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["refit"] == found.summary()["refit"] == found.refit
    rows = torch.tensor(blobs()[2][0], dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path)(rows), found.model()(rows))


def spoilt(one: Kept, value: float) -> Kept:
    """With these weights, as it would say itself."""
    network = {name: np.full_like(array, value) for name, array in one.state["network"].items()}
    with torch.no_grad():
        outputs = restore(NOISY.network, {**one.state, "network": network})(rows())
    metrics = one.state["metrics"] | {ALL_ROWS: float(NOISY.loss(outputs, torch.tensor(blobs()[1][1])))}
    return dataclasses.replace(one, state={**one.state, "network": network, "metrics": metrics})


def rows() -> torch.Tensor:
    return torch.tensor(blobs()[1][0], dtype=torch.float32)


def test_a_copy_that_has_diverged_is_left_out_with_the_rows_that_only_it_has_not_seen() -> None:
    start = before()
    finals = copies(start)
    without = refitted_model(start, finals[:3], **SETTINGS)
    found = refitted_model(start, [*finals[:3], spoilt(finals[3], np.nan)], **SETTINGS)
    assert found is not None and without is not None
    assert found.refit is not None and found.refit["copies"] == 3
    assert found.value == without.value and np.isfinite(found.value)


def permuted(one: Kept) -> Kept:
    """The same function, its hidden units in another order: as far away as another basin."""
    network = dict(one.state["network"])
    order = np.arange(16)[::-1]
    network["0.weight"], network["0.bias"] = network["0.weight"][order], network["0.bias"][order]
    network["3.weight"] = network["3.weight"][:, order]
    return dataclasses.replace(one, state={**one.state, "network": network})


def test_copies_that_have_parted_are_not_averaged() -> None:
    start = before()
    finals = copies(start)
    parted = [permuted(one) if one.member % 2 else one for one in finals]
    found = refitted_model(start, parted, **SETTINGS)
    assert found is not None and found.refit is not None and found.refit["copies"] == 1
    best = min(parted, key=lambda one: one.state["metrics"][ALL_ROWS])
    assert all(np.array_equal(found.state["network"][n], array) for n, array in best.state["network"].items())
    together = refitted_model(start, finals, **SETTINGS)
    assert together is not None
    assert found.value == pytest.approx(together.value, rel=1e-4)  # each row's copy says what it said


def of_fold(one: Kept) -> Any:
    """Weights that are wrong about everything."""
    return {name: -30.0 * array for name, array in one.state["network"].items()}


def test_a_users_metric_is_asked_about_nothing_but_what_is_delivered() -> None:
    start = before()
    finals = copies(start)
    asked: list[int] = []

    def picky(outputs: torch.Tensor, targets: torch.Tensor) -> float:
        asked.append(len(outputs))
        return 1 / (len(outputs) == 60)

    task = dataclasses.replace(NOISY, metrics={"picky": picky})
    found = refitted_model(dataclasses.replace(start, task=task), finals, **SETTINGS)
    assert found is not None and found.metrics["validation_picky"] == 1.0 and set(asked) == {60}


def test_more_copies_than_folds_share_them() -> None:
    start = before()
    of = Refit.of(NOISY, dict(start.state), copies=10)
    kept = []
    for member in range(10):
        one = of.build(MemberContext(member=member, seed=member), {"lr": 0.003, "dropout": 0.1})
        one.train(10)
        kept.append(Kept(member=member, segment=0, origin="final", state=one.get_state()))
    found = refitted_model(start, kept, copies=10, metric="validation_loss", mode="min")
    assert found is not None
    inputs, targets = rows(), torch.tensor(blobs()[1][1])
    said = torch.empty(len(targets), 3)
    for fold in range(8):
        pair = [one.state["network"] for one in kept if one.member % 8 == fold]
        network = {name: np.mean([each[name] for each in pair], axis=0) for name in pair[0]}
        with torch.no_grad():
            said[fold::8] = restore(NOISY.network, {**start.state, "network": network})(inputs[fold::8])
    loss = NOISY.loss(calibrated(said, found.calibration, binary=False), targets)
    assert found.value == pytest.approx(float(loss), rel=1e-4)
    assert found.calibration != start.calibration


def test_one_that_has_gone_wrong_is_not_taken() -> None:
    start = before()
    finals = copies(start)
    assert refitted_model(start, [spoilt(one, 30.0) for one in finals], **SETTINGS) is None
    by_heart = [dataclasses.replace(one, state={**one.state, "network": of_fold(one)}) for one in finals]
    assert refitted_model(start, by_heart, **SETTINGS) is None  # sound in their own words, wrong on what they held out
    assert refitted_model(start, [spoilt(one, np.inf) for one in finals], **SETTINGS) is None
    assert refitted_model(start, [], **SETTINGS) is None
    never = [dataclasses.replace(one, state={**one.state, "metrics": {}}) for one in finals]  # all segments have failed
    assert refitted_model(start, never, **SETTINGS) is None


def test_a_best_checkpoint_as_it_is_can_be_refitted() -> None:
    alone = delivered_model(NOISY, noisy()[:1], metric="validation_accuracy", mode="max", plain=True)
    assert alone is not None and len(alone.parts) == 1
    plain = dataclasses.replace(alone, calibration=Calibration())
    found = refitted_model(plain, copies(plain), copies=COPIES, metric="validation_accuracy", mode="max")
    assert found is not None and found.value == found.metrics["validation_accuracy"]
