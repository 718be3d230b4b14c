"""A classifier's outputs, calibrated: still what its loss takes, with other probabilities."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from raytune_rl.combining.calibration import Calibration


def calibrated(outputs: torch.Tensor, calibration: Calibration, *, binary: bool) -> torch.Tensor:
    """Outputs of the same shape whose probabilities are those that ``calibration`` makes of theirs.

    Args:
        outputs: scores or log probabilities of the classes along dimension 1, (N, classes, ...); with ``binary``
            logits of any shape, each of a question of its own.
    """
    heated = outputs if calibration.temperature == 1.0 else outputs / calibration.temperature
    if calibration.uniform == 0.0:
        return heated
    kept = math.log1p(-calibration.uniform)
    if binary:  # in log space, since close to 1 a probability has no digits left for its logit
        added = heated.new_tensor(math.log(calibration.uniform / 2))
        yes = torch.logaddexp(F.logsigmoid(heated) + kept, added)
        return yes - torch.logaddexp(F.logsigmoid(-heated) + kept, added)
    classes = 1 if heated.ndim > 1 else 0
    added = heated.new_tensor(math.log(calibration.uniform / heated.shape[classes]))
    return torch.logaddexp(F.log_softmax(heated, dim=classes) + kept, added)


class Calibrated:
    """A forward hook that calibrates a network's outputs: the module stays the user's own, and its weights what they
    were."""

    def __init__(self, calibration: Calibration, *, binary: bool) -> None:
        self.calibration, self.binary = calibration, binary

    def __call__(self, module: nn.Module, inputs: Any, outputs: Any) -> Any:
        return calibrated(outputs, self.calibration, binary=self.binary)


def calibrate(network: nn.Module, calibration: Calibration, *, binary: bool) -> nn.Module:
    """``network``, its outputs from now on ``calibrated``."""
    if calibration != Calibration():
        network.register_forward_hook(Calibrated(calibration, binary=binary))
    return network
