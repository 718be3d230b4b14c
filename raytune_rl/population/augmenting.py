"""Applies a task's augmentation to the training batches of one member."""

from __future__ import annotations

from typing import Any

import torch

from raytune_rl.population.augmentations import Augment


class Augmenter:
    """Changes a member's training batches for one segment, with one strength and one stream of random numbers.

    Args:
        augment: the task's augmentation.
        strength: above 0.
        generator: on the member's device, used for nothing else.
    """

    def __init__(self, augment: Augment, strength: float, generator: torch.Generator) -> None:
        self._augment = augment
        self._strength = strength
        self._generator = generator

    @torch.no_grad()
    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """The batch that is trained on in place of ``inputs``, (B, ...).

        Raises:
            ValueError: the augmentation returned something else than a tensor of the same shape, dtype and device.
        """
        changed: Any = self._augment(inputs, self._strength, self._generator)  # users' functions may return anything
        if not isinstance(changed, torch.Tensor):
            raise ValueError(f"augment must return the changed inputs as a tensor, not {type(changed).__name__}.")
        if changed.shape != inputs.shape or changed.dtype != inputs.dtype or changed.device != inputs.device:
            raise ValueError(f"augment was given inputs {_kind(inputs)} and must return such, not {_kind(changed)}.")
        return changed


def _kind(tensor: torch.Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')} on {tensor.device.type}"
