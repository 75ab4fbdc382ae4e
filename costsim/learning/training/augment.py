"""Light random changes of images: pseudo-queries made of the support set."""

from collections.abc import Sequence

import torch
from numpy.random import Generator
from torch import Tensor
from torch.nn import functional

ZOOM = 0.15
"""An image is shown up to so much larger or smaller."""

SHIFT = 0.125
"""An image is moved by up to this share of its side."""

BRIGHTNESS = 0.2
CONTRAST = 0.2
"""Added to, and multiplied with, pixels in [-1, 1]."""

AMOUNTS = 5


def draw_amounts(rng: Generator, samples: int) -> Tensor:
    """`[samples, 5]` in [-1, 1]: zoom, shift right, shift down, brightness, contrast."""
    # Uniform doubles alone: other draws may change between releases of numpy.
    return torch.from_numpy(rng.random((samples, AMOUNTS)) * 2 - 1)


def augment(images: Tensor, amounts: Tensor) -> Tensor:
    """Images `[N, C, H, W]` in [-1, 1], each changed by its row of `amounts` `[N, 5]`.

    No mirror images: signs, letters and digits are not their own.
    """
    zoom, right, down, brightness, contrast = amounts.to(images).unbind(1)
    scale = 1 + ZOOM * zoom
    theta = images.new_zeros(len(images), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, 0, 2], theta[:, 1, 2] = 2 * SHIFT * right, 2 * SHIFT * down
    size: Sequence[int] = images.shape
    grid = functional.affine_grid(theta, list(size), align_corners=False)
    moved = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    column = (len(images), 1, 1, 1)
    factor, offset = 1 + CONTRAST * contrast, BRIGHTNESS * brightness
    return moved.mul_(factor.view(column)).add_(offset.view(column)).clamp_(-1, 1)
