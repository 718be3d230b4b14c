from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from raytune_rl import load
from raytune_rl.combining.calibration import Calibration, cost_of_doubt
from raytune_rl.ensemble.delivery import delivered_model
from raytune_rl.ensemble.finishing import delivery_of
from raytune_rl.ensemble.kept import Kept
from raytune_rl.population.export import restore
from tests.ensemble.members import NOISY, TASK, inputs, noisy, trained
from tests.population.models import blobs


def delivered(metric: str = "validation_loss", mode: str = "min", **changes):
    return delivered_model(dataclasses.replace(NOISY, **changes), noisy(), metric=metric, mode=mode)


def best_alone(metric: str = "validation_loss") -> float:
    return min(kept.state["metrics"][metric] for kept in noisy())


def test_it_is_better_on_validation_than_the_best_checkpoint() -> None:
    found = delivered()
    assert found is not None
    assert found.value == found.metrics["validation_loss"] < best_alone() + cost_of_doubt(len(blobs()[1][1]))
    assert len(found.parts) > 1 and sum(share for _, share in found.parts) == pytest.approx(1.0)
    assert found.calibration.temperature >= 0.5


def test_its_value_is_that_of_its_model() -> None:
    found = delivered()
    assert found is not None
    rows, targets = blobs()[1]
    with torch.no_grad():
        loss = TASK.loss(found.model()(torch.tensor(rows, dtype=torch.float32)), torch.tensor(targets))
    assert float(loss) == pytest.approx(found.value, rel=1e-5)
    assert set(found.test()) == {"test_loss", "test_accuracy", "test_ece", "test_brier"}


def test_its_weights_are_the_weighted_mean_of_its_parts() -> None:
    found = delivered()
    assert found is not None
    states = {one.place: one.state["network"] for one in noisy()}
    for name, array in found.state["network"].items():
        mean = sum(share * states[place][name].astype("float64") for place, share in found.parts)
        torch.testing.assert_close(torch.tensor(array), torch.tensor(mean, dtype=torch.float32), rtol=1e-5, atol=1e-6)


def test_what_is_written_predicts_the_same_when_loaded(tmp_path: Path) -> None:
    found = delivered()
    assert found is not None
    hot = dataclasses.replace(found, calibration=Calibration(2.0, 0.1))
    assert hot.export(tmp_path)
    with torch.no_grad():
        loaded = load(tmp_path)(inputs(5, 2))
        torch.testing.assert_close(loaded, hot.model()(inputs(5, 2)))
        plain = restore(TASK.network, dict(hot.state))
        shares = 0.9 * (plain(inputs(5, 2)) / 2.0).softmax(dim=1) + 0.1 / 3
        torch.testing.assert_close(loaded.softmax(dim=1), shares)
    assert type(load(tmp_path)) is type(plain)  # the user's own class, not one of ours around it


@pytest.mark.parametrize(
    ("name", "value"), [("temperature", "hot"), ("temperature", 0), ("temperature", True), ("uniform", 1.5)]
)
def test_a_calibration_that_is_none_is_refused(tmp_path: Path, name: str, value: object) -> None:
    found = delivered()
    assert found is not None
    found.export(tmp_path)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(json.dumps({**json.loads(text), name: value}))
    with pytest.raises(ValueError, match=f"config.json: {name} is"):
        load(tmp_path)


def test_accuracy_is_a_metric_like_any_other() -> None:
    most = max(one.state["metrics"]["validation_accuracy"] for one in noisy())
    found = delivered("validation_accuracy", "max")
    assert found is None or found.value >= most


def test_of_equal_checkpoints_the_one_with_the_lower_loss_leads_and_is_told_of() -> None:
    def equal(one: Kept) -> Kept:
        return dataclasses.replace(
            one, state={**one.state, "metrics": {**one.state["metrics"], "validation_accuracy": 1.0}}
        )

    found = delivered_model(
        NOISY, [equal(one) for one in noisy()], metric="validation_accuracy", mode="max", plain=True
    )
    best = min(noisy(), key=lambda one: one.state["metrics"]["validation_loss"])
    assert found is not None and found.place == best.place and found.alone == 1.0
    told = found.summary()
    assert (told["member"], told["segment"]) == best.place
    assert told["hyperparameters"] == best.state["hyperparameters"]
    assert told["checkpoint"]["metrics"]["validation_loss"] == best.state["metrics"]["validation_loss"]


def test_a_metric_of_members_only_leaves_the_best_checkpoint() -> None:
    assert delivered("train_loss") is None


def test_one_checkpoint_is_at_most_calibrated() -> None:
    kept, _ = trained()
    found = delivered_model(TASK, kept[:1], metric="validation_loss", mode="min")
    assert found is None or (len(found.parts) == 1 and found.calibration != Calibration())
    assert delivered_model(TASK, [], metric="validation_loss", mode="min") is None


def test_nothing_spoils_a_run(caplog: pytest.LogCaptureFixture) -> None:
    def too_large(most: float) -> None:
        raise ValueError("the run's states take 5.0 GiB")

    assert delivery_of(TASK, too_large, metric="validation_loss", mode="min") is None
    assert "delivers its best checkpoint as it is: the run's states take 5.0 GiB" in caplog.text
    assert delivery_of(object(), too_large, metric="validation_loss", mode="min") is None
