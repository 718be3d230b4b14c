"""The losses of members and of their combinations: one loss per kind of task, each convex in the weights.

Predictions are arrays of shape (members, rows, outputs); what an output is depends on the kind:

==================  ==========================================  ======================  =============================
kind                predictions                                 targets                 loss of a row
==================  ==========================================  ======================  =============================
``classification``  class probabilities (rows, classes)         class (rows,)           negative log of the target's
``generation``      token probabilities (tokens, vocabulary)    token (tokens,)         the same
``regression``      values (rows, outputs)                      values (rows, outputs)  mean squared error
``matching``        scores of the candidates (rows, k)          the right one (rows,)   cross entropy of their softmax
==================  ==========================================  ======================  =============================

Combining means averaging probabilities, token distributions, values or scores. What a loss needs to know of predictions
can be averaged in the same way (``Evidence``), so the loss of a combination does not need the predictions again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
Array: TypeAlias = np.ndarray[Any, Any]
Kind: TypeAlias = Literal["classification", "generation", "regression", "matching"]
KINDS: tuple[Kind, ...] = get_args(Kind)

SMOOTHING = 0.005
"""The share of the uniform distribution that is mixed into probabilities, so that one confident mistake among a few
hundred validation rows does not decide which members are chosen."""


def combine(predictions: Array, weights: Sequence[float] | Array | None = None) -> Floats:
    """The mean over the members, weighted by ``weights`` (members,) if given: shape (rows, outputs).

    Members of weight zero have no influence, even if they predict NaN.
    """
    if weights is None:
        mean: Floats = np.mean(predictions, axis=0, dtype=np.float64)
        return mean
    share = np.asarray(weights, dtype=np.float64)
    used = np.flatnonzero(share)
    mixed: Floats = np.tensordot(share[used], np.asarray(predictions)[used].astype(np.float64, copy=False), axes=1)
    return mixed


def losses(predictions: Array, targets: Array, kind: Kind) -> Floats:
    """The loss of each member, shape (members,); lower is better, infinite where a prediction is not finite.

    Args:
        predictions: shape (members, rows, outputs), see the table above (module docstring).
        targets: shape (rows,) or (rows, outputs). Rows with a negative class or token (padding) do not count.
        kind: of the task.

    Raises:
        ValueError: the shapes do not fit together, or no row counts.
    """
    return Evidence.of(predictions, targets, kind).losses()


def comparable(losses: Array) -> Floats:
    """Losses with NaN replaced by infinity. (By default ``np.nan_to_num`` would make infinite losses finite.)"""
    return np.nan_to_num(losses, nan=np.inf, posinf=np.inf)


def scores(predictions: Array, targets: Array, kind: Kind) -> Floats:
    """Scores for people to read, shape (members,), higher is better: the share of right answers (classes, tokens,
    matches), or for regression the coefficient of determination."""
    predictions, targets = _checked(predictions, targets, kind)
    if kind != "regression":
        right: Floats = np.mean(predictions.argmax(axis=2) == targets, axis=1)
        return right
    errors = np.mean((predictions - targets) ** 2, axis=(1, 2))
    spread = float(np.mean((targets - targets.mean(axis=0)) ** 2))
    explained: Floats = 1.0 - errors / spread if spread > 0 else np.where(errors > 0, -np.inf, 1.0)
    return explained


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the loss needs to know of predictions, in a form that can be averaged like them.

    Attributes:
        values: shape (members, rows, n): the smoothed probability of the target (n = 1), the error of each output, or
            how far each candidate's score lies above that of the right one.
        kind: of the task.
    """

    values: Floats
    kind: Kind

    @classmethod
    def of(cls, predictions: Array, targets: Array, kind: Kind) -> Evidence:
        """The evidence of predictions (members, rows, outputs); see ``losses``."""
        predictions, targets = _checked(predictions, targets, kind)
        if kind == "regression":
            return cls(values=predictions - targets, kind=kind)
        chosen = np.take_along_axis(predictions, targets[None, :, None], axis=2)
        if kind == "matching":
            return cls(values=predictions - chosen, kind=kind)
        return cls(values=(1.0 - SMOOTHING) * chosen + SMOOTHING / predictions.shape[2], kind=kind)

    @classmethod
    def stack(cls, parts: Sequence[Evidence]) -> Evidence:
        """The evidence of the members of several parts, one after the other."""
        return cls(values=np.concatenate([part.values for part in parts]), kind=parts[0].kind)

    def __len__(self) -> int:
        """The number of members."""
        return len(self.values)

    @property
    def rows(self) -> int:
        return int(self.values.shape[1])

    def losses(self) -> Floats:
        """The loss of each member, shape (members,); infinite where a prediction is not finite."""
        return self.losses_of(self.values)

    def loss(self, weights: Array) -> float:
        """The loss of the combination with ``weights`` (members,)."""
        return float(self.losses_of(combine(self.values, weights)[None])[0])

    def slope(self, weights: Array) -> Floats:
        """The gradient of ``loss`` with respect to the weights, shape (members,)."""
        mixed = combine(self.values, weights)
        if self.kind == "regression":
            row_slopes = 2.0 * mixed / mixed.shape[1]
        elif self.kind == "matching":
            row_slopes = np.exp(mixed - _log_sum_exp(mixed)[..., None])
        else:
            row_slopes = -1.0 / np.maximum(mixed, np.finfo(np.float64).tiny)
        slope: Floats = np.tensordot(self.values, row_slopes, axes=2) / self.rows
        return slope

    def take(self, *, members: Array | None = None, rows: Array | None = None) -> Evidence:
        """The evidence of some members on some rows, both given as indices (which may repeat); ``None`` = all."""
        values = self.values if members is None else self.values[members]
        return Evidence(values=values if rows is None else values[:, rows], kind=self.kind)

    def losses_of(self, values: Floats) -> Floats:
        """The losses of any number of combinations, whose averaged evidence is ``values`` (combinations, rows, n)."""
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            if self.kind == "regression":
                row_losses = np.mean(values * values, axis=-1)
            elif self.kind == "matching":
                row_losses = _log_sum_exp(values)
            else:
                row_losses = -np.log(values[..., 0])
            mean = np.mean(row_losses, axis=-1)
        finite: Floats = np.where(np.isfinite(mean), mean, np.inf)
        return finite


def _log_sum_exp(values: Floats) -> Floats:
    top = values.max(axis=-1)
    log_sums: Floats = top + np.log(np.sum(np.exp(values - top[..., None]), axis=-1))
    return log_sums


def _checked(predictions: Array, targets: Array, kind: Kind) -> tuple[Floats, Array]:
    """Both arrays in the form that losses are computed from: float64 predictions, and only rows that count.

    Raises ``ValueError`` if they do not fit together.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; it must be one of {', '.join(KINDS)}.")
    predictions, targets = np.asarray(predictions, dtype=np.float64), np.asarray(targets)
    if predictions.ndim != 3 or len(targets) != predictions.shape[1]:
        raise ValueError(
            f"predictions have shape {predictions.shape} and targets {targets.shape}; "
            "they must be (members, rows, outputs) and (rows, ...)."
        )
    if kind == "regression":
        targets = targets.reshape(len(targets), -1).astype(np.float64)
        if targets.shape != predictions.shape[1:]:
            raise ValueError(f"targets have {targets.shape[1]} outputs, and predictions {predictions.shape[2]}.")
        return predictions, targets
    counted = targets >= 0
    if targets.ndim != 1 or not np.issubdtype(targets.dtype, np.integer):
        raise ValueError(f"targets of a {kind} must be whole numbers of shape (rows,), not {targets.shape}.")
    if not counted.all():
        predictions, targets = predictions[:, counted], targets[counted]
    if len(targets) == 0 or targets.max() >= predictions.shape[2]:
        raise ValueError(f"targets must lie in 0..{predictions.shape[2] - 1}, and at least one row must count.")
    return predictions, targets
