"""Many images at once, of one size, in 8 bits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from costsim.base.errors import InputError
from costsim.base.progress import Progress
from costsim.base.units import counted, format_bytes
from costsim.data.decode import MAXIMUM_PIXELS, to_levels
from costsim.data.source import ImageSource
from costsim.data.threads import threaded_map

LARGEST_BYTES = 2**32
"""Of images that are held at once, as float32."""


def read_pixels(
    source: ImageSource,
    names: Sequence[str],
    height: int,
    width: int,
    channels: int,
    progress: Progress | None = None,
    *,
    largest_bytes: int = LARGEST_BYTES // 4,
) -> NDArray[np.uint8]:
    """These images as `[N, channels, H, W]` in 8 bits, in the order of `names`.

    Resized bilinearly, the aspect ratio not kept; grey ones are repeated for three channels.
    Raises `InputError` for an image that is missing or cannot be decoded, for sizes that make
    none, and for more than `largest_bytes`.
    """
    if min(height, width) < 1:
        raise InputError(f"resolution is {min(height, width)}; at least 1 is needed")
    if channels not in (1, 3):
        raise InputError(f"the model takes {channels} input channels; images have 1 or 3")
    size = len(names) * channels * height * width
    if size > largest_bytes:
        raise InputError(
            f"{counted(len(names), 'image')} of {height}x{width} take {format_bytes(4 * size)}; "
            f"at most {format_bytes(4 * largest_bytes)} are held, draw fewer or make them smaller"
        )
    slots: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        slots.setdefault(name, []).append(index)
    pixels = np.empty((len(names), channels, height, width), np.uint8)

    def fill(read: tuple[str, Image.Image]) -> str:
        name, image = read
        pixels[slots[name]] = to_levels(image, height, width, channels)
        return name

    missing = set(slots)
    filled = threaded_map(
        fill,
        source.read(list(slots)),
        size_of=lambda read: read[1].width * read[1].height,
        most=MAXIMUM_PIXELS,
    )
    for done, name in enumerate(filled, start=1):
        missing.discard(name)
        if progress is not None:
            progress("reading images", done, len(slots))
    if missing:
        raise InputError(f"{source.description}: {min(missing)} has gone since it was indexed")
    return pixels


def to_float(levels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Grey levels 0 to 255 as float32 in [-1, 1]."""
    return levels.astype(np.float32) / np.float32(127.5) - np.float32(1)


@dataclass(frozen=True, eq=False)
class DecodedImages:
    """All images of a source, decoded once, for drawing many episodes from.

    `pixels` is uint8 `[N, channels, H, W]`, an eighth of what float64 and a quarter of what
    float32 would take; `rows` says which image is where.
    """

    description: str
    classes: Mapping[str, tuple[str, ...]]
    pixels: NDArray[np.uint8] = field(repr=False)

    @cached_property
    def rows(self) -> Mapping[str, int]:
        """The row of each image by name: class after class, names as the class has them."""
        names = (name for members in self.classes.values() for name in members)
        return {name: row for row, name in enumerate(names)}

    def images(self, names: Sequence[str]) -> NDArray[np.float32]:
        """Float32 `[N, channels, H, W]` in [-1, 1] of these images, in this order."""
        return to_float(self.pixels[[self.rows[name] for name in names]])


def decode_all(
    source: ImageSource,
    resolution: int | tuple[int, int],
    channels: int = 3,
    progress: Progress | None = None,
    *,
    largest_bytes: int = 2**34,
) -> DecodedImages:
    """Decode every image of a source; raises `InputError` as `read_pixels` does."""
    height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
    names = [name for members in source.classes.values() for name in members]
    pixels = read_pixels(
        source, names, height, width, channels, progress, largest_bytes=largest_bytes
    )
    return DecodedImages(source.description, source.classes, pixels)
