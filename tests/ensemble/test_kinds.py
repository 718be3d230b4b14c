"""The model and the ensemble of a run read a task alike, whatever its kind."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from raytune_rl.combining.calibration import Calibration
from raytune_rl.combining.losses import Kind
from raytune_rl.ensemble.building import build
from raytune_rl.ensemble.delivery import delivered_model
from raytune_rl.ensemble.kept import Kept
from raytune_rl.ensemble.pool import NoEnsemble
from raytune_rl.ensemble.settings import Ensemble
from raytune_rl.ensemble.validation import on_test_split
from raytune_rl.population.torch_task import TorchTask
from tests.ensemble.members import row, table
from tests.population.models import build as member_of

WORDS, LENGTH = 5, 4
SURE = 8.0
"""What outputs are multiplied by: the models are far too sure of themselves."""


def split(inputs: torch.Tensor, targets: torch.Tensor) -> Any:
    return tuple((inputs[rows], targets[rows]) for rows in (slice(0, 60), slice(60, 120), slice(120, 180)))


def sentences() -> Any:
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(0, WORDS, (180, LENGTH), generator=generator)
    other = torch.randint(0, WORDS, words.shape, generator=generator)
    targets = torch.where(torch.rand(words.shape, generator=generator) < 0.6, words, other)
    targets[:, 0] = -100  # padding
    return split(words, targets)


def candidates() -> Any:
    generator = torch.Generator().manual_seed(0)
    pairs = torch.randn(180, 4, 3, generator=generator)
    noise = torch.randn(180, 4, generator=generator)
    return split(pairs, (pairs.sum(2) + noise).argmax(1))


class Words(nn.Module):
    def __init__(self, *, last: bool = False, logs: bool = False) -> None:
        super().__init__()
        self.table, self.last, self.logs = nn.Embedding(WORDS, WORDS), last, logs

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        scores = SURE * self.table(inputs)
        scores = scores.log_softmax(-1) if self.logs else scores
        return scores if self.last else scores.movedim(-1, 1)


def words() -> nn.Module:
    return Words()


def words_last() -> nn.Module:
    return Words(last=True)


def log_words() -> nn.Module:
    return Words(logs=True)


class Match(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(3, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = SURE * self.score(inputs).squeeze(2)
        return found


def flat(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def margin(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.multi_margin_loss(outputs, targets)


GENERATION = TorchTask(words, sentences, loss=nn.CrossEntropyLoss())
LOGS = TorchTask(log_words, sentences, loss=nn.NLLLoss())
MATCHING = TorchTask(Match, candidates, loss=nn.CrossEntropyLoss())


@functools.cache
def one(task: TorchTask) -> Kept:
    member = member_of(task, {"lr": 0.01})
    member.train(5)
    return Kept(member=0, segment=0, origin="final", state=member.get_state())


def both(task: TorchTask, kind: Kind | None) -> tuple[Any, Any]:
    """The model and the ensemble of a run that has kept one state: of the same weights."""
    delivered = delivered_model(task, [one(task)], metric="validation_loss", mode="min", kind=kind)
    return delivered, ensemble(task, kind)


def ensemble(task: TorchTask, kind: Kind | None, **changes: Any) -> Any:
    segments: pd.DataFrame = table([row(0, 0, None, {"lr": 0.01})])
    settings = Ensemble(kind=kind, **changes)
    return build(settings, task, [one(task)], segments, metric="validation_loss", mode="min", seed=0)


@pytest.mark.parametrize(("task", "kind"), [(GENERATION, None), (LOGS, None), (MATCHING, "matching")])
def test_both_are_calibrated_alike(task: TorchTask, kind: Kind | None) -> None:
    delivered, built = both(task, kind)
    assert delivered is not None and delivered.calibration == built.model.calibration != Calibration()
    plain = ensemble(task, kind, calibrate=False)
    assert plain.model.calibration == Calibration()
    assert built.metrics["validation_loss"] < plain.metrics["validation_loss"] - 0.1
    tested = on_test_split(built.model, task, built.reading)
    assert tested["test_loss"] == pytest.approx(delivered.test()["test_loss"], rel=1e-5)
    assert 0 <= built.metrics["validation_ece"] < plain.metrics["validation_ece"] and 0 < tested["test_brier"] < 2
    inputs = task.data()[2][0]  # type: ignore[operator, index]
    assert torch.equal(built.model(inputs).argmax(1), plain.model(inputs).argmax(1))


def test_scores_under_a_loss_that_makes_no_probabilities_of_them_stay_as_they_are() -> None:
    task = dataclasses.replace(MATCHING, loss=margin)
    delivered, built = both(task, "matching")
    assert delivered is None and built.model.calibration == Calibration()
    assert not {"validation_ece", "validation_brier"} & set(built.metrics)


def test_probabilities_of_yes_are_averaged_as_they_are() -> None:
    def yes_or_no() -> Any:
        inputs = torch.randn(180, 3, generator=torch.Generator().manual_seed(0))
        return split(inputs, (inputs[:, :1] > 0).float())

    def network() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 1), nn.Sigmoid())

    built = ensemble(TorchTask(network, yes_or_no, loss=nn.BCELoss()), "classification")
    assert built.model.link == "probability" and built.model.calibration == Calibration()
    assert built.metrics["validation_loss"] == pytest.approx(built.loss, abs=0.02)  # the latter is smoothed


def test_a_vocabulary_that_is_last_is_told_what_to_do() -> None:
    task = TorchTask(words_last, sentences, loss=flat)
    with pytest.raises(NoEnsemble, match=r"vocabulary last; they must be dimension 1.* transpose them in the network"):
        ensemble(task, "generation")
