"""Ready-made augmentations: ``TorchTask(augment=augmentations.shift)`` with ``roles.augmentation``.

An augmentation is a function of a member's training batch (a tensor of shape (B, ...), on the device that the member
trains on), a strength above 0, and a generator that it must draw all its random numbers from. It returns a new tensor
of the same shape and dtype. You can write your own in the experiment file, with these two as examples. Tuning the
strength with a population is the idea of Population Based Augmentation (Ho et al. 2019).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch

Augment: TypeAlias = Callable[[torch.Tensor, float, torch.Generator], torch.Tensor]
"""``augment(inputs, strength, generator)``, see the module's docstring."""


def noise(inputs: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    """Add Gaussian noise to inputs of any kind, as long as they are floats.

    Args:
        inputs: shape (B, ...).
        strength: standard deviation of the noise of each input (feature, pixel), in standard deviations of that input
            over the batch; about 0 to 1. So units do not matter, and constant inputs, such as the border of an image,
            stay constant; a batch of one example has no spread and is left unchanged.

    Small noise acts as a penalty on the derivatives of the outputs by the inputs (Bishop 1995, "Training with noise is
    equivalent to Tikhonov regularization").
    """
    if not inputs.is_floating_point():
        raise ValueError(f"augmentations.noise is for inputs that are floats, not {inputs.dtype}.")
    spread = inputs.std(dim=0, correction=0, keepdim=True)
    unit_noise = torch.randn(inputs.shape, generator=generator, device=inputs.device, dtype=inputs.dtype)
    return inputs + strength * spread * unit_noise


def shift(inputs: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    """Move each image by whole pixels, vertically and horizontally; pixels that enter are 0, those that leave are lost.

    Args:
        inputs: images of shape (B, H, W) or (B, ..., H, W). In standardised or centred images 0 is the mean.
        strength: the furthest move, as a share of the image's height and width; sensible values are 0 to 0.5. Moves are
            uniform up to it, and a fraction of a pixel is rounded up with a probability equal to that fraction, so
            that strengths below a pixel have an effect too.

    The usual translation for CIFAR, 4 pixels of padding and a random crop of 32 (He et al. 2016, section 4.2), is about
    ``strength=0.125``.
    """
    if inputs.ndim < 3:
        raise ValueError(f"augmentations.shift is for images (B, ..., H, W), not for inputs of shape {_shape(inputs)}.")
    count, height, width = len(inputs), *inputs.shape[-2:]
    position, rounding = torch.rand(2, 2, count, generator=generator, device=inputs.device)
    size = torch.tensor([[height], [width]], device=inputs.device)
    down, right = (strength * size * (2 * position - 1) + rounding).floor().long()
    images = inputs.reshape(count, -1, height, width)
    rows = torch.arange(height, device=inputs.device) - down.unsqueeze(1)
    columns = torch.arange(width, device=inputs.device) - right.unsqueeze(1)
    shifted = images.gather(2, rows.clamp(0, height - 1)[:, None, :, None].expand_as(images))
    shifted = shifted.gather(3, columns.clamp(0, width - 1)[:, None, None, :].expand_as(images))
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    return shifted.masked_fill(~inside.unsqueeze(1), 0).view(inputs.shape)


def _shape(tensor: torch.Tensor) -> str:
    return str(tuple(tensor.shape))
