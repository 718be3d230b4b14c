"""Augmentations that are ready to use: ``TorchTask(augment=augmentations.shift)`` with ``roles.augmentation``.

An augmentation is a function of a member's training batch (a tensor of shape (B, ...), on the device that the member
trains on), a strength above 0, and the generator that all its random numbers come from. It returns another tensor of
the same shape and dtype. Write your own in the experiment file; these two are examples of it as well. To steer its
strength by a population is the idea of Population Based Augmentation (Ho et al. 2019).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch

Augment: TypeAlias = Callable[[torch.Tensor, float, torch.Generator], torch.Tensor]
"""``augment(inputs, strength, generator)``, see above."""


def noise(inputs: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    """Gaussian noise, for inputs of any kind that are floats.

    Args:
        inputs: shape (B, ...).
        strength: standard deviation of the noise of each input (feature, pixel), in standard deviations of that input
            over the batch; about 0 to 1. So units do not matter, and what is constant, such as the border of an image,
            stays so; a batch of one example has no spread and stays as it is.

    Small noise is a penalty on how steeply outputs follow each input (Bishop 1995, "Training with noise is equivalent
    to Tikhonov regularization").
    """
    if not inputs.is_floating_point():
        raise ValueError(f"augmentations.noise is for inputs that are floats, not {inputs.dtype}.")
    spread = inputs.std(dim=0, correction=0, keepdim=True)
    drawn = torch.randn(inputs.shape, generator=generator, device=inputs.device, dtype=inputs.dtype)
    return inputs + strength * spread * drawn


def shift(inputs: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    """Each image moved by whole pixels, up or down and to either side; what comes in is 0, what leaves is lost.

    Args:
        inputs: images of shape (B, H, W) or (B, ..., H, W). Standardised or centred ones are filled with their mean.
        strength: the furthest move, as a share of the image's height and width; 0 to 0.5, say. Moves are uniform in
            between, and what is left of a pixel is rounded up with that probability, so that strengths below a pixel
            have an effect too.

    The translation of the usual recipe for CIFAR, 4 pixels of padding and a random crop of 32 (He et al. 2016,
    section 4.2), is about ``strength=0.125``.
    """
    if inputs.ndim < 3:
        raise ValueError(f"augmentations.shift is for images (B, ..., H, W), not for inputs of shape {_shape(inputs)}.")
    count, height, width = len(inputs), *inputs.shape[-2:]
    drawn = torch.rand(2, 2, count, generator=generator, device=inputs.device)
    size = torch.tensor([[height], [width]], device=inputs.device)
    down, right = (strength * size * (2 * drawn[0] - 1) + drawn[1]).floor().long()
    images = inputs.reshape(count, -1, height, width)
    rows = torch.arange(height, device=inputs.device) - down.unsqueeze(1)
    columns = torch.arange(width, device=inputs.device) - right.unsqueeze(1)
    taken = images.gather(2, rows.clamp(0, height - 1)[:, None, :, None].expand_as(images))
    taken = taken.gather(3, columns.clamp(0, width - 1)[:, None, None, :].expand_as(images))
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    return taken.masked_fill(~inside.unsqueeze(1), 0).view(inputs.shape)


def _shape(tensor: torch.Tensor) -> str:
    return str(tuple(tensor.shape))
