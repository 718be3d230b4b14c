"""Calibrates a classifier's outputs: they keep the form that the loss takes, and only their probabilities change."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from raytune_rl.combining.calibration import Calibration


def calibrated(outputs: torch.Tensor, calibration: Calibration, *, binary: bool) -> torch.Tensor:
    """Outputs of the same shape with calibrated probabilities: logits where ``binary``, else log probabilities of the
    classes. A calibration that changes nothing returns the outputs themselves.

    Args:
        outputs: scores or log probabilities of the classes along dimension 1, (N, classes, ...), or of a single example
            (classes,); with ``binary`` logits of any shape, each for a separate yes-or-no question.
    """
    if calibration == Calibration():
        return outputs
    scores = outputs / calibration.temperature
    if binary:  # in log space, because a probability close to 1 has no digits left from which to compute its logit
        yes, no = F.logsigmoid(scores), F.logsigmoid(-scores)
        return _mix_with_uniform(yes, calibration.uniform, 2) - _mix_with_uniform(no, calibration.uniform, 2)
    dimension = 1 if scores.ndim > 1 else 0
    return _mix_with_uniform(F.log_softmax(scores, dim=dimension), calibration.uniform, scores.shape[dimension])


def _mix_with_uniform(logs: torch.Tensor, share: float, classes: int) -> torch.Tensor:
    """Log probabilities after mixing in a ``share`` of the uniform distribution over that number of ``classes``."""
    if share == 0.0:
        return logs
    return torch.logaddexp(logs + math.log1p(-share), logs.new_tensor(math.log(share / classes)))


class Calibrated:
    """A forward hook that calibrates a network's outputs. As a hook it needs no wrapper around the user's module, and
    leaves the weights and their names alone."""

    def __init__(self, calibration: Calibration, *, binary: bool) -> None:
        self.calibration, self.binary = calibration, binary

    def __call__(self, module: nn.Module, inputs: Any, outputs: Any) -> Any:
        return calibrated(outputs, self.calibration, binary=self.binary)


def calibrate(network: nn.Module, calibration: Calibration, *, binary: bool) -> nn.Module:
    """Make ``network`` return ``calibrated`` outputs from now on. Returns the same module."""
    if calibration != Calibration():  # spares exports and copies a hook that would change nothing
        network.register_forward_hook(Calibrated(calibration, binary=binary))
    return network
