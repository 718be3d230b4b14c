"""Members' predictions for a sample of validation examples, in a form that can be averaged: probabilities or values.

The examples are the same for all members and reports, evenly spaced over the split. Each position of a sequence, and
each of several yes-or-no outputs, counts as a separate example.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from raytune_rl.combining.contribution import EvaluationTargets
from raytune_rl.combining.losses import Kind
from raytune_rl.population.evaluation import classes_first
from raytune_rl.population.packed.losses import LossName

ROWS: Final = 512
"""Largest number of examples: enough to tell members apart, at a few kilobytes per report."""

IGNORED: Final = -100
"""The class of targets that the loss ignores."""

_LOSSES: dict[Any, LossName] = {
    nn.CrossEntropyLoss: "cross_entropy",
    F.cross_entropy: "cross_entropy",
    nn.BCEWithLogitsLoss: "binary_cross_entropy",
    F.binary_cross_entropy_with_logits: "binary_cross_entropy",
    nn.MSELoss: "mse",
    F.mse_loss: "mse",
}
_RELATED: dict[Any, LossName] = {
    nn.NLLLoss: "cross_entropy",
    F.nll_loss: "cross_entropy",
    **dict.fromkeys((nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss), "mse"),
    **dict.fromkeys((F.l1_loss, F.smooth_l1_loss, F.huber_loss), "mse"),
}
_DECLARED: dict[Kind, LossName] = {
    "classification": "cross_entropy",
    "generation": "cross_entropy",
    "matching": "cross_entropy",
    "regression": "mse",
}


def known_loss(loss: Any) -> LossName | None:
    """Which of the three supported torch losses ``loss`` is: a module or a function, which may have keywords
    (``functools.partial``). Its settings, such as class weights, do not matter. ``None`` if it is none of them."""
    return _known(_LOSSES, loss)


def related_loss(loss: Any) -> LossName | None:
    """Like ``known_loss``, but also for losses that take the same outputs as one of the three. Log probabilities are
    scores, as the softmax turns them into the same probabilities; values are judged by their squared error, whatever
    error they are trained on."""
    return known_loss(loss) or _known(_RELATED, loss)


def judged_as(loss: Any, declared: Kind | None = None) -> LossName:
    """The loss that averages of a task's predictions are judged by. For a ``loss`` that is not known here it follows
    from ``declared``, which is ``Ensemble.kind``. Must agree with ``ensemble.links.task_of``, which decides whether the
    run can deliver such an ensemble.

    Raises:
        ValueError: the loss is not known, and no kind is declared.
    """
    judged = related_loss(loss) or (None if declared is None else _DECLARED[declared])
    if judged is None:
        raise ValueError(
            f"The ensemble of a population can be judged under CrossEntropyLoss, NLLLoss, BCEWithLogitsLoss, MSELoss, "
            f"L1Loss, SmoothL1Loss and HuberLoss, not {getattr(loss, '__name__', type(loss).__name__)}. For a loss of "
            f"your own, Ensemble(kind=...) says what the outputs are: scores of classes or candidates, or values."
        )
    return judged


def check_outputs(
    judged: LossName, outputs: torch.Tensor, targets: torch.Tensor, *, declared: Kind | None = None
) -> None:
    """Refuse outputs (N, ...) that ``Sample`` cannot compare with their targets, or that cannot form an ensemble.

    Raises:
        ValueError: one sentence with both shapes.
    """
    if judged == "cross_entropy":
        fitting, wanted = classes_first(outputs, targets), "the targets', with classes or candidates as dimension 1"
    else:
        shapes = [part.reshape(len(part), -1).shape if declared else part.shape for part in (outputs, targets)]
        fitting, wanted = shapes[0] == shapes[1], "the targets'"
    if not fitting:
        raise ValueError(
            f"The network's outputs have shape {tuple(outputs.shape)} for targets of shape {tuple(targets.shape)}; for "
            f"objective='ensemble' it must be {wanted}."
        )


def counted(targets: torch.Tensor, loss: Any) -> torch.Tensor:
    """Targets (N, ...) in which those that ``loss`` gives no weight are replaced by ``IGNORED``, a negative class:
    its ``ignore_index`` (say, the class of padding), and classes whose weight is 0. Negative classes are left out of
    whatever is computed from the targets. Other class weights have no effect here."""
    if targets.is_floating_point():
        return targets
    weights = _class_loss_setting(loss, "weight")
    weightless = torch.nonzero(weights == 0).flatten().tolist() if isinstance(weights, torch.Tensor) else []
    index = _class_loss_setting(loss, "ignore_index")
    for label in (*weightless, *([index] if isinstance(index, int) and index >= 0 else [])):
        targets = targets.masked_fill(targets == label, IGNORED)
    return targets


def _class_loss_setting(loss: Any, name: str) -> Any:
    """A setting of a loss of classes: a module's attribute, or a keyword of a function (``functools.partial``).
    ``None`` for other losses."""
    if _known(_LOSSES, loss) != "cross_entropy" and _known(_RELATED, loss) != "cross_entropy":
        return None
    return loss.keywords.get(name) if isinstance(loss, functools.partial) else getattr(loss, name, None)


def _known(table: Mapping[Any, LossName], loss: Any) -> LossName | None:
    loss = loss.func if isinstance(loss, functools.partial) else loss
    if isinstance(loss, nn.Module):
        return next((table[base] for base in type(loss).__mro__ if base in table), None)
    return next((name for known, name in table.items() if loss is known), None)


@dataclass(frozen=True, eq=False)
class Sample:
    """The examples of a split that members report predictions for.

    Attributes:
        loss: the loss that predictions are judged by, see ``judged_as``.
        rows: indices of the examples, int64 (R,), in outputs flattened to (examples, outputs).
        evaluation_targets: the right answers to these examples.
    """

    loss: LossName
    rows: torch.Tensor
    evaluation_targets: EvaluationTargets

    @classmethod
    def of(cls, loss: LossName, targets: torch.Tensor, limit: int = ROWS, *, declared: Kind | None = None) -> Sample:
        """Choose at most ``limit`` examples of a split.

        Args:
            loss: see ``judged_as``.
            targets: of the whole split, (N, ...), after ``counted``.
            declared: ``Ensemble.kind``.

        Raises:
            ValueError: predictions cannot be compared with such targets.
        """
        if declared == "matching" and (loss != "cross_entropy" or targets.ndim != 1):
            raise ValueError(
                "Ensemble(kind='matching') under objective='ensemble' needs a loss of scores, such as "
                "CrossEntropyLoss, and targets of shape (rows,), the number of the right candidate."
            )
        if declared == "regression" and loss == "cross_entropy":
            raise ValueError("Ensemble(kind='regression') does not go with a loss of classes; leave the kind out.")
        loss = "mse" if declared == "regression" else loss
        if loss == "cross_entropy" and targets.is_floating_point():
            raise ValueError(
                "The ensemble of a population can be judged by class indices as targets, not by class probabilities; "
                "yes-or-no targets need BCEWithLogitsLoss."
            )
        if loss == "mse":
            answers = targets.reshape(len(targets), -1)
            known = torch.arange(len(answers))
        else:
            answers = targets.reshape(-1).round().long()
            known = torch.nonzero(answers >= 0)[:, 0]  # targets that the loss ignores are negative
        spaced = torch.linspace(0, len(known) - 1, min(limit, len(known)), dtype=torch.float64).round().long()
        rows = known[spaced]
        kind: Kind = "regression" if loss == "mse" else "matching" if declared == "matching" else "classification"
        return cls(loss=loss, rows=rows, evaluation_targets=EvaluationTargets(answers[rows].cpu().numpy(), kind))

    def predictions(self, outputs: torch.Tensor) -> NDArray[np.float32]:
        """The predictions of K networks, (K, R, outputs), from their outputs for the whole split, (K, N, ...).

        They are probabilities that sum to 1, or values, or scores of candidates. Scores are shifted to a mean of 0, as
        only their differences matter.
        """
        members = len(outputs)
        if self.evaluation_targets.kind == "matching":
            scores = outputs[:, self.rows].float()
            predicted = scores - scores.mean(dim=2, keepdim=True)
        elif self.loss == "cross_entropy":
            flat = outputs.movedim(2, -1).reshape(members, -1, outputs.shape[2])
            predicted = flat[:, self.rows].float().softmax(dim=2)
        elif self.loss == "binary_cross_entropy":
            yes = outputs.reshape(members, -1)[:, self.rows].float().sigmoid()
            predicted = torch.stack([1.0 - yes, yes], dim=2)
        else:
            predicted = outputs.reshape(members, outputs.shape[1], -1)[:, self.rows].float()
        values: NDArray[np.float32] = predicted.cpu().numpy()
        return values
