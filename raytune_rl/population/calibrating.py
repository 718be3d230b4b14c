"""A classifier's outputs, calibrated: still what its loss takes, with other probabilities."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from raytune_rl.combining.calibration import Calibration


def calibrated(outputs: torch.Tensor, calibration: Calibration, *, binary: bool) -> torch.Tensor:
    """Outputs of the same shape whose probabilities are those that ``calibration`` makes of theirs; where it changes
    nothing they are returned as they are, and log probabilities of classes otherwise.

    Args:
        outputs: scores or log probabilities of the classes along dimension 1, (N, classes, ...); with ``binary``
            logits of any shape, each of a question of its own.
    """
    if calibration == Calibration():
        return outputs
    heated = outputs / calibration.temperature
    if binary:  # in log space, since close to 1 a probability has no digits left for its logit
        yes, no = F.logsigmoid(heated), F.logsigmoid(-heated)
        return _mixed(yes, calibration.uniform, 2) - _mixed(no, calibration.uniform, 2)
    classes = 1 if heated.ndim > 1 else 0
    return _mixed(F.log_softmax(heated, dim=classes), calibration.uniform, heated.shape[classes])


def _mixed(logs: torch.Tensor, uniform: float, classes: int) -> torch.Tensor:
    """Log probabilities with a share of the uniform distribution over so many ``classes``."""
    if uniform == 0.0:
        return logs
    return torch.logaddexp(logs + math.log1p(-uniform), logs.new_tensor(math.log(uniform / classes)))


class Calibrated:
    """A forward hook that calibrates a network's outputs: the module stays the user's own, and its weights what they
    were."""

    def __init__(self, calibration: Calibration, *, binary: bool) -> None:
        self.calibration, self.binary = calibration, binary

    def __call__(self, module: nn.Module, inputs: Any, outputs: Any) -> Any:
        return calibrated(outputs, self.calibration, binary=self.binary)


def calibrate(network: nn.Module, calibration: Calibration, *, binary: bool) -> nn.Module:
    """``network``, its outputs from now on ``calibrated``."""
    if calibration != Calibration():  # else exports and copies need not carry a hook
        network.register_forward_hook(Calibrated(calibration, binary=binary))
    return network
