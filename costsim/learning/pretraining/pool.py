"""Images decoded once and held in memory, so that decoding never starves the training."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from costsim.base.errors import InputError
from costsim.base.progress import Progress
from costsim.base.units import format_bytes
from costsim.data import ImageSource, decode_all, find_tracks

LARGEST_POOL_BYTES = 8 * 2**30
"""Of all decoded images of a run."""


@dataclass(frozen=True, eq=False)
class Domain:
    """Classes of one source: the names of their images, and the row of the pool of each.

    Images of one track (`costsim.data.find_tracks`) are learnt from or tested on, never both.
    """

    name: str
    classes: Mapping[str, tuple[str, ...]]
    rows: Mapping[str, int]
    tracks: Mapping[str, str] | None = None

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """In ascending order, which is also that of `members`."""
        return tuple(sorted(self.classes))

    @cached_property
    def numbers(self) -> Mapping[str, int]:
        """The place of each class among them."""
        return {name: number for number, name in enumerate(self.class_names)}

    @cached_property
    def members(self) -> tuple[NDArray[np.int64], ...]:
        """The rows of the pool that show each class."""
        return tuple(
            np.array([self.rows[image] for image in self.classes[name]], dtype=np.int64)
            for name in self.class_names
        )


@dataclass(frozen=True, eq=False)
class Pool:
    """Pixels uint8 `[N, channels, side, side]` and whose they are.

    `training` and `held_out` hold each source's classes, disjoint.
    """

    pixels: Tensor
    training: tuple[Domain, ...]
    held_out: tuple[Domain, ...]

    def at(self, side: int) -> Tensor:
        """All pixels resized to `side`, uint8 `[N, channels, side, side]`, antialiased."""
        if side == self.pixels.shape[-1]:
            return self.pixels
        parts = [
            functional.interpolate(part.float(), size=(side, side), mode="bilinear", antialias=True)
            .round_()
            .clamp_(0, 255)
            .to(torch.uint8)
            for part in torch.split(self.pixels, 256)
        ]
        return torch.cat(parts)


def load_pool(
    sources: Sequence[ImageSource],
    side: int,
    held_out: float,
    progress: Progress | None = None,
    *,
    limit: int | None = None,
) -> Pool:
    """Decode all images of `sources` at `side`; `held_out` of each source's classes set apart.

    Which classes are held out follows from their sorted names alone: evenly spread, so that an
    alphabet or a theme is not lost as a whole. `limit` keeps the first so many images a class.
    Raises `InputError` for images that cannot be decoded or do not fit in memory.
    """
    decoded, grey = [], True
    for source in sources:
        members = {name: tuple(source.classes[name][:limit]) for name in sorted(source.classes)}
        found = decode_all(_Part(source, members), side, 3, progress)
        grey = grey and _is_grey(found.pixels)
        decoded.append(found)
    size = sum(found.pixels.nbytes for found in decoded)
    if size > LARGEST_POOL_BYTES:
        raise InputError(
            f"{sum(len(found.pixels) for found in decoded):,} images of {side}x{side} take "
            f"{format_bytes(size)}; at most {format_bytes(LARGEST_POOL_BYTES)} are held: give a "
            "smaller resolution or less data"
        )
    training: list[Domain] = []
    validation: list[Domain] = []
    first = 0
    for found in decoded:
        labels = sorted(found.classes)
        apart = _spread(len(labels), round(held_out * len(labels)))
        tracks = find_tracks(found.classes)
        for chosen, where in ((False, training), (True, validation)):
            kept = [label for at, label in enumerate(labels) if (at in apart) == chosen]
            if kept:
                classes = {label: found.classes[label] for label in kept}
                rows = {n: first + found.rows[n] for names in classes.values() for n in names}
                where.append(Domain(found.description, classes, rows, tracks))
        first += len(found.pixels)
    channels = slice(0, 1) if grey else slice(None)
    pixels = np.concatenate([found.pixels[:, channels] for found in decoded])
    return Pool(torch.from_numpy(pixels), tuple(training), tuple(validation))


@dataclass(frozen=True)
class _Part:
    """Some images of a source."""

    source: ImageSource
    classes: Mapping[str, tuple[str, ...]]

    @property
    def description(self) -> str:
        return self.source.description

    def read(self, names: Sequence[str]) -> Iterator[tuple[str, Image.Image]]:
        return self.source.read(names)


def _is_grey(pixels: NDArray[np.uint8]) -> bool:
    first = pixels[:, :1]
    return bool((pixels[:, 1:2] == first).all() and (pixels[:, 2:] == first).all())


def _spread(count: int, chosen: int) -> set[int]:
    """`chosen` of `range(count)`, evenly spread."""
    return {int((2 * index + 1) * count / (2 * chosen)) for index in range(chosen)}
