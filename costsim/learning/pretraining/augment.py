"""Random changes of a whole episode's images at once, on the training device.

All random numbers come from the generator that is passed in, as uniform doubles.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Augmentation:
    """How far an image may be changed; angles in degrees, lengths as shares of the side.

    `symmetries`: 1 for none, 8 for the rotations and mirror images of the square, each of which
    makes another class. `elastic` bends by a smooth field, `stroke` is the share of images drawn
    thicker or thinner, `coarse` of those shown at a low resolution, `invert` of the episodes shown
    as negatives, `paint` of images in which ink and paper get two random colours. `jitter` is the
    range of brightness, contrast and colour.
    """

    symmetries: int = 1
    rotate: float = 0.0
    zoom: float = 0.0
    shear: float = 0.0
    shift: float = 0.0
    elastic: float = 0.0
    mirror: bool = False
    stroke: float = 0.0
    coarse: float = 0.0
    invert: float = 0.0
    paint: float = 0.0
    jitter: float = 0.0


PRESETS = {
    "none": Augmentation(),
    "characters": Augmentation(
        symmetries=8,
        rotate=15,
        zoom=0.2,
        shear=0.2,
        shift=0.1,
        elastic=0.06,
        stroke=0.4,
        coarse=0.35,
        invert=0.5,
        paint=0.3,
        jitter=0.2,
    ),
    "photographs": Augmentation(
        rotate=8, zoom=0.25, shear=0.05, shift=0.12, mirror=True, jitter=0.3
    ),
}

_COARSEST, _FINEST = 10, 28
_FIELD = 4


def augment(
    pixels: Tensor, symmetries: NDArray[np.int64], how: Augmentation, rng: Generator
) -> Tensor:
    """`pixels` uint8 `[N, 1 or 3, side, side]` as float32 `[N, 3, side, side]` in [-1, 1]."""
    images = pixels.float().mul_(2 / 255).sub_(1)
    if how == PRESETS["none"]:
        return images.expand(-1, 3, -1, -1)
    device = images.device
    count, side = len(images), images.shape[-1]

    def uniform(*shape: int) -> Tensor:
        drawn = rng.random(shape or (count,)) * 2 - 1
        return torch.from_numpy(drawn).float().to(device)

    def some(share: float) -> NDArray[np.int64]:
        return np.flatnonzero(rng.random(count) < share)

    if how.stroke and len(chosen := some(how.stroke)):
        images[chosen] = _stroke(images[chosen], rng)
    images = _move(images, symmetries, how, uniform)
    if how.coarse and len(chosen := some(how.coarse)):
        coarse = _COARSEST + int(rng.random() * (_FINEST - _COARSEST + 1))
        if coarse < side:
            small = functional.interpolate(
                images[chosen], size=(coarse, coarse), mode="bilinear", antialias=True
            )
            images[chosen] = functional.interpolate(small, size=(side, side), mode="bilinear")
    if rng.random() < how.invert:
        images = -images
    images = images.expand(-1, 3, -1, -1)
    if how.paint and len(chosen := some(how.paint)):
        images = images.contiguous()
        colours = torch.from_numpy(rng.random((2, len(chosen), 3, 1, 1)) * 2 - 1)
        paper, ink = colours.float().to(device)
        # As far apart as black and grey at least, in one channel.
        ink = ink - paper
        largest = ink.abs().amax(1, keepdim=True).clamp(min=1e-3)
        ink = ink * (largest.clamp(min=1.0) / largest)
        images[chosen] = paper + ink * (images[chosen] + 1) / 2
    if how.jitter:
        column = (count, 1, 1, 1)
        contrast = 1 + how.jitter * uniform().view(column)
        tint = how.jitter * (uniform().view(column) + 0.3 * uniform(count, 3, 1, 1))
        images = images * contrast + tint
    return images.clamp(-1, 1)


def _stroke(images: Tensor, rng: Generator) -> Tensor:
    """Each image dilated or eroded by one pixel: light strokes thicker, dark ones thinner."""
    grown = functional.max_pool2d(images, 3, stride=1, padding=1)
    shrunk = -functional.max_pool2d(-images, 3, stride=1, padding=1)
    kind = torch.from_numpy(rng.random(len(images)) < 0.5).to(images.device).view(-1, 1, 1, 1)
    part = torch.from_numpy(rng.random(len(images))).float().to(images.device).view(-1, 1, 1, 1)
    return torch.lerp(images, torch.where(kind, grown, shrunk), part)


def _move(images: Tensor, symmetries: NDArray[np.int64], how: Augmentation, uniform) -> Tensor:  # type: ignore[no-untyped-def]
    count, _, side, _ = images.shape
    turn = torch.from_numpy(symmetries % 4).to(images.device) * (math.pi / 2)
    flip = torch.from_numpy(np.where(symmetries >= 4, -1.0, 1.0)).float().to(images.device)
    if how.mirror:
        flip = flip * torch.where(uniform() < 0, -1.0, 1.0)
    angle = math.radians(how.rotate) * uniform()
    scale = torch.exp(how.zoom * uniform())
    shear, stretch = how.shear * uniform(), torch.exp(0.5 * how.zoom * uniform())
    zero = torch.zeros_like(scale)
    cos, sin = angle.cos(), angle.sin()
    jitter = _rows((cos, -sin), (sin, cos)) @ _rows(
        (scale * stretch, shear), (zero, scale / stretch)
    )
    # Rounded, so that an orientation alone moves pixels and blends none.
    square = _rows(
        (turn.cos().round().float() * flip, -turn.sin().round().float()),
        (turn.sin().round().float() * flip, turn.cos().round().float()),
    )
    offset = 2 * how.shift * torch.stack([uniform(), uniform()], 1)
    theta = torch.cat([square @ jitter, offset.unsqueeze(2)], 2)
    grid = functional.affine_grid(theta, [count, 1, side, side], align_corners=False)
    if how.elastic:
        field = uniform(count, 2, _FIELD, _FIELD) * (2 * how.elastic)
        bend = functional.interpolate(field, size=(side, side), mode="bicubic", align_corners=True)
        grid = grid + bend.permute(0, 2, 3, 1)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _rows(*rows: tuple[Tensor, Tensor]) -> Tensor:
    """`[N, 2, 2]` of two rows of two `[N]` each."""
    return torch.stack([torch.stack(row, 1) for row in rows], 1)
