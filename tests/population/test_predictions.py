"""What members predict: shares or values for the same examples, whatever the shape of outputs and targets."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from raytune_rl.population.predictions import ROWS, Sample, check_outputs, counted, judged_as
from raytune_rl.population.splits import Split
from raytune_rl.population.torch_task import TorchTask


def test_classes() -> None:
    targets, outputs = torch.arange(9) % 3, torch.randn(2, 9, 3)
    sample = Sample.of("cross_entropy", targets)
    found = sample.predictions(outputs)
    np.testing.assert_allclose(found, outputs.softmax(2).numpy(), rtol=1e-6)
    assert found.dtype == np.float32 and sample.evaluation_targets.kind == "classification"
    losses = [F.nll_loss(torch.log(torch.from_numpy(p) * 0.995 + 0.005 / 3), targets) for p in found]
    np.testing.assert_allclose(sample.evaluation_targets.evidence(found).losses(), losses, rtol=1e-5)


def test_at_most_so_many_rows_from_all_over_the_split() -> None:
    sample = Sample.of("cross_entropy", torch.arange(5000) // 500)
    assert len(sample.rows) == ROWS == len(set(sample.rows.tolist()))
    assert (
        np.bincount(sample.evaluation_targets.targets).min() >= ROWS // 10 - 1
    )  # sorted by class, and all classes are there
    assert sample.predictions(torch.zeros(1, 5000, 10)).shape == (1, ROWS, 10)


def test_each_position_of_a_sequence_counts_and_padding_does_not() -> None:
    targets = torch.tensor([[0, 1, -100], [2, -100, -100]])
    outputs = torch.randn(1, 2, 4, 3)
    found = Sample.of("cross_entropy", targets).predictions(outputs)
    expected = outputs[0].softmax(1)
    np.testing.assert_allclose(
        found[0], torch.stack([expected[0, :, 0], expected[0, :, 1], expected[1, :, 0]]), rtol=1e-6
    )


@pytest.mark.parametrize("shape", [(6,), (6, 1), (3, 2)])
def test_yes_or_no(shape: tuple[int, ...]) -> None:
    targets = torch.tensor([0.0, 1, 1, 0, 1, 0]).reshape(shape)
    outputs = torch.randn(2, *shape)
    sample = Sample.of("binary_cross_entropy", targets)
    found = sample.predictions(outputs)
    np.testing.assert_allclose(found[:, :, 1], outputs.sigmoid().reshape(2, 6).numpy(), rtol=1e-6)
    np.testing.assert_allclose(found.sum(axis=2), 1.0, rtol=1e-6)
    assert sample.evaluation_targets.targets.tolist() == [0, 1, 1, 0, 1, 0]


@pytest.mark.parametrize("shape", [(6,), (6, 1), (3, 2)])
def test_values(shape: tuple[int, ...]) -> None:
    targets, outputs = torch.randn(shape), torch.randn(2, *shape)
    sample = Sample.of("mse", targets)
    found = sample.predictions(outputs)
    assert sample.evaluation_targets.kind == "regression" and found.shape == (2, shape[0], *shape[1:]) + (1,) * (
        2 - len(shape)
    )
    np.testing.assert_allclose(
        sample.evaluation_targets.evidence(found).losses(),
        [float(F.mse_loss(one, targets)) for one in outputs],
        rtol=1e-5,
    )


def test_scores_of_candidates() -> None:
    targets, outputs = torch.arange(9) % 3, torch.randn(2, 9, 3)
    sample = Sample.of("cross_entropy", targets, declared="matching")
    found = sample.predictions(outputs)
    assert sample.evaluation_targets.kind == "matching" and found.dtype == np.float32
    together = F.cross_entropy(outputs.mean(0), targets)  # averaged as scores
    np.testing.assert_allclose(
        sample.evaluation_targets.evidence(found).loss(np.array([0.5, 0.5])), float(together), rtol=1e-5
    )
    shifted = sample.predictions(outputs + torch.randn(2, 9, 1))
    np.testing.assert_allclose(shifted, found, atol=1e-5)


def test_a_declared_kind_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'matching'.* needs a loss of scores"):
        Sample.of("mse", torch.rand(5), declared="matching")
    with pytest.raises(ValueError, match=r"'regression'.* does not go with a loss of classes"):
        Sample.of("cross_entropy", torch.arange(5), declared="regression")


def test_losses_are_known_as_modules_and_functions() -> None:
    assert judged_as(nn.CrossEntropyLoss(label_smoothing=0.1)) == judged_as(F.cross_entropy) == "cross_entropy"
    assert judged_as(nn.BCEWithLogitsLoss()) == "binary_cross_entropy" and judged_as(F.mse_loss) == "mse"
    assert judged_as(nn.NLLLoss()) == judged_as(F.nll_loss) == "cross_entropy"
    assert judged_as(nn.HuberLoss()) == judged_as(F.l1_loss) == "mse"


def test_a_loss_of_ones_own_needs_a_declared_kind() -> None:
    def own(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return outputs.mean()

    with pytest.raises(ValueError, match=r"not own\. For a loss of your own, Ensemble\(kind=\.\.\.\)"):
        judged_as(own)
    assert judged_as(own, "regression") == "mse" and judged_as(own, "classification") == "cross_entropy"
    assert judged_as(nn.MSELoss(), "matching") == "mse"  # what is known is not overruled, and Sample refuses it


@pytest.mark.parametrize(
    ("judged", "outputs", "targets", "declared"),
    [
        ("cross_entropy", (4,), (4,), "classification"),
        ("cross_entropy", (4, 1), (4, 1), "classification"),
        ("cross_entropy", (4, 7, 20), (4, 7), "generation"),
        ("mse", (4, 2), (4,), "regression"),
        ("mse", (4, 1), (4,), None),
    ],
)
def test_outputs_that_make_no_ensemble_are_refused(judged, outputs, targets, declared) -> None:
    answers = torch.zeros(targets, dtype=torch.float32 if judged == "mse" else torch.int64)
    with pytest.raises(ValueError, match=r"have shape \(4.* for targets of shape \(4"):
        check_outputs(judged, torch.zeros(outputs), answers, declared=declared)


@pytest.mark.parametrize(
    ("judged", "outputs", "targets", "declared"),
    [
        ("cross_entropy", (4, 3), (4,), None),
        ("cross_entropy", (4, 20, 7), (4, 7), "generation"),
        ("mse", (4, 1), (4,), "regression"),
        ("binary_cross_entropy", (4, 1), (4, 1), None),
    ],
)
def test_outputs_that_make_one_are_compared_with_their_targets(judged, outputs, targets, declared) -> None:
    answers = torch.zeros(targets, dtype=torch.int64 if judged == "cross_entropy" else torch.float32)
    check_outputs(judged, torch.zeros(outputs), answers, declared=declared)
    sample = Sample.of(judged, answers, declared=declared)
    found = sample.predictions(torch.zeros(2, *outputs))
    assert np.isfinite(sample.evaluation_targets.evidence(found).losses()).all()


def test_log_probabilities_are_judged_as_what_they_are() -> None:
    shares = torch.softmax(torch.randn(3, 9, 4), dim=2)
    found = Sample.of(judged_as(nn.NLLLoss()), torch.arange(9) % 4).predictions(shares.log())
    np.testing.assert_allclose(found, shares.numpy(), atol=1e-6)


def test_class_shares_as_targets_are_refused() -> None:
    with pytest.raises(ValueError, match="not by class probabilities"):
        Sample.of("cross_entropy", torch.rand(5, 3))


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(ignore_index=0),
        nn.NLLLoss(ignore_index=0),
        functools.partial(F.cross_entropy, ignore_index=0),
        nn.CrossEntropyLoss(weight=torch.tensor([0.0, 1.0, 2.0])),
    ],
    ids=["module", "log probabilities", "function", "weight"],
)
def test_padding_that_the_loss_ignores_does_not_count(loss) -> None:
    targets = torch.tensor([[1, 2, 0], [2, 0, 0]])
    assert counted(targets, loss).tolist() == [[1, 2, -100], [2, -100, -100]]
    assert judged_as(loss) == "cross_entropy"
    task = TorchTask(nn.Identity, tuple, loss=loss)
    sample = task.sample(Split(inputs=torch.zeros(2, 1), targets=targets))
    assert sample.evaluation_targets.targets.tolist() == [1, 2, 2]


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.MSELoss(), nn.BCEWithLogitsLoss(weight=torch.zeros(1))])
def test_under_other_losses_all_targets_count(loss: nn.Module) -> None:
    for targets in (torch.tensor([0, 1]), torch.tensor([0.0, 1.0])):
        assert torch.equal(counted(targets, loss), targets)
