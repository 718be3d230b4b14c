"""A task's augmentation at work on the batches of one member."""

from __future__ import annotations

from typing import Any

import torch

from raytune_rl.population.augmentations import Augment


class Augmenter:
    """Changes a member's training batches, by one strength and one stream of random numbers; lives for a segment.

    Args:
        augment: the task's.
        strength: above 0.
        generator: on the member's device, for nothing else.
    """

    def __init__(self, augment: Augment, strength: float, generator: torch.Generator) -> None:
        self._augment = augment
        self._strength = strength
        self._generator = generator

    @torch.no_grad()
    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """The batch that is trained on in place of ``inputs``, (B, ...).

        Raises:
            ValueError: what came back is no such batch.
        """
        found: Any = self._augment(inputs, self._strength, self._generator)  # may be anything
        if not isinstance(found, torch.Tensor):
            raise ValueError(f"augment must return the changed inputs as a tensor, not {type(found).__name__}.")
        if found.shape != inputs.shape or found.dtype != inputs.dtype or found.device != inputs.device:
            raise ValueError(f"augment was given inputs {_kind(inputs)} and must return such, not {_kind(found)}.")
        return found


def _kind(tensor: torch.Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')} on {tensor.device.type}"
