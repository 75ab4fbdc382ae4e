"""What a model takes, as far as it says so itself; torch is not needed to ask."""

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from costsim.base.errors import InputError
from costsim.base.units import format_bytes

if TYPE_CHECKING:
    from torch import nn

DEFAULT_RESOLUTION = 128
"""Side of the square images for a model that does not say what it takes."""

IMAGE_CHANNELS = (3, 1)
"""Of images in colour and in grey."""

DEFAULT_LENGTH = 128
"""Tokens in a sample of a model that takes more and does not say how many."""

LARGEST_VOCABULARY = 2**24
"""Tokens that 32 bits of floating point tell apart."""

LARGEST_INPUT_BYTES = 2**30
"""Of the example a model is traced with."""

SMALLEST_RESOLUTION = 32
"""Of the built-in networks, which halve the image five times."""

Shape = tuple[int, ...]
"""Of a sample: (channels, height, width) of images, or whatever a model takes."""


def check_sizes(batch: int, resolution: int | None) -> None:
    """Raise `InputError` for what is no number of samples, and no side of an image."""
    if batch < 1:
        raise InputError(f"batch is {batch}; at least 1 is needed")
    if resolution is not None and resolution < 1:
        raise InputError(f"resolution is {resolution}; at least 1 is needed")


def check_room(shape: Shape) -> None:
    """Raise `InputError` for an input `[N, ...]` that is larger than any that is traced."""
    size = 4 * math.prod(shape)
    if size > LARGEST_INPUT_BYTES:
        raise InputError(
            f"resolution is {shape[-1]}, batch {shape[0]}: an input of shape {shape} takes "
            f"{format_bytes(size)}; at most {format_bytes(LARGEST_INPUT_BYTES)} can be traced"
        )


def side_of(name: str, usual: int, resolution: int | None) -> int:
    """Of the images of the built-in network `name`; raises `InputError` for too small ones."""
    side = usual if resolution is None else resolution
    if side < SMALLEST_RESOLUTION:
        raise InputError(
            f"resolution is {side}; {name} needs at least {SMALLEST_RESOLUTION} pixels a side"
        )
    return side


def input_shape_of(module: "nn.Module", resolution: int | None, usual: int | None = None) -> Shape:
    """The images that a module takes, square ones of `resolution` where one is given.

    Of a model of tokens (see `vocabulary_of`) it is how many there are in a sample: `resolution`,
    else what it takes at most, up to 128.

    What it says itself counts, in this order: its attribute `input_shape`; its integer attribute
    `resolution`, or the `usual` one of what made it; what timm (`pretrained_cfg`) and Hugging Face
    (`config`) keep of a model; else 3 channels of 128 x 128. Raises `InputError` as
    `own_input_shape` does.
    """
    own = own_input_shape(module, resolution)
    if own is not None:
        return own
    if vocabulary_of(module) is not None:
        most = getattr(getattr(module, "config", None), "max_position_embeddings", None)
        return (resolution or min(most or DEFAULT_LENGTH, DEFAULT_LENGTH),)
    channels, height, width = _of_libraries(module) or (3, DEFAULT_RESOLUTION, DEFAULT_RESOLUTION)
    for side in (resolution, getattr(module, "resolution", None), usual):
        if isinstance(side, int):
            return channels, side, side
    return channels, height, width


def says_its_images(module: "nn.Module") -> bool:
    """Whether a module says anything of the images that it takes."""
    sized = isinstance(getattr(module, "resolution", None), int)
    return sized or hasattr(module, "input_shape") or _of_libraries(module) is not None


def vocabulary_of(module: "nn.Module") -> int | None:
    """How many tokens a model knows that takes them in place of numbers; None of any other.

    Its attribute `input_tokens` says so, or Hugging Face of a model of theirs. Raises `InputError`
    for what is no such number.
    """
    given: Any = getattr(module, "input_tokens", None)
    if given is None and getattr(module, "main_input_name", None) == "input_ids":
        given = getattr(getattr(module, "config", None), "vocab_size", None)
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int) or not 0 < given <= LARGEST_VOCABULARY:
        raise InputError(
            f"the model's input_tokens is {given!r}; the number of its tokens is needed, at most "
            f"{LARGEST_VOCABULARY:,}"
        )
    return given


def own_input_shape(module: "nn.Module", resolution: int | None) -> Shape | None:
    """The shape of a sample that a module's attribute `input_shape` says; None without one.

    Of images (channels, height, width); at another `resolution`, the width of the images, if they
    are square. Raises `InputError` for what is no shape, and for another width of what is not a
    square image.
    """
    given: Any = getattr(module, "input_shape", None)
    if given is None:
        return None
    sizes = tuple(given) if isinstance(given, tuple | list) else (given,)
    if not sizes or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise InputError(
            f"the model's input_shape is {given!r}; the sizes of a sample are needed, such as "
            "(channels, height, width)"
        )
    if resolution in (None, sizes[-1]):
        return sizes
    if len(sizes) == 1 and vocabulary_of(module) is not None:
        raise InputError(f"resolution is {resolution}; the model takes {sizes[0]} tokens")
    if not _are_images(sizes) or sizes[1] != sizes[2]:
        told = f"images are {sizes[1]}x{sizes[2]}" if _are_images(sizes) else f"input is {sizes}"
        raise InputError(f"resolution is {resolution}; the model says that its {told}")
    assert resolution is not None
    return sizes[0], resolution, resolution


def _are_images(sizes: tuple[Any, ...]) -> bool:
    plain = all(isinstance(size, int) and size > 0 for size in sizes)
    return len(sizes) == 3 and plain and sizes[0] in IMAGE_CHANNELS


def _of_libraries(module: "nn.Module") -> Shape | None:
    """What timm and Hugging Face say of a model of theirs; None of any other, or of no images."""
    for said in _said(module):
        if _are_images(said):
            return said
    return None


def _said(module: "nn.Module") -> Iterable[tuple[Any, ...]]:
    timm = getattr(module, "pretrained_cfg", None)
    if isinstance(timm, Mapping) and isinstance(timm.get("input_size"), tuple | list):
        yield tuple(timm["input_size"])
    config = getattr(module, "config", None)
    side = getattr(config, "image_size", None)
    if side is not None:
        sides = tuple(side) if isinstance(side, tuple | list) else (side, side)
        yield (getattr(config, "num_channels", 3), *sides)
