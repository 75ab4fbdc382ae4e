"""A few-shot task: the handful of labelled samples that one user has."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from costsim.data.decode import to_array
from costsim.data.source import ImageSource, Progress
from costsim.errors import InputError
from costsim.units import format_bytes

LARGEST_TASK_BYTES = 2**32
"""Of the images of one task, decoded."""


@dataclass(frozen=True, eq=False)
class Task:
    """Labelled images, class after class; the arrays are read-only.

    `images` is float32 `[ways * shots, channels, H, W]` in [-1, 1] (the scale that the built-in
    networks were trained on; a model that wants another normalises in its first layer),
    `labels` int64 `[ways * shots]`, an index into `class_names`; `paths` names the images within
    the source. The `query_` fields are as many again for testing, empty unless asked for.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    paths: tuple[str, ...]
    source: str
    seed: int
    query_images: NDArray[np.float32]
    query_labels: NDArray[np.int64]
    query_paths: tuple[str, ...]

    @property
    def ways(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def shots(self) -> int:
        """Support images a class."""
        return len(self.labels) // self.ways

    @property
    def description(self) -> str:
        """The task in one line, enough to draw it again."""
        return f"{self.source}, {self.ways} ways × {self.shots} shots, seed {self.seed}"


def sample_task(
    source: ImageSource,
    *,
    ways: int,
    shots: int,
    seed: int,
    resolution: int | tuple[int, int],
    queries: int = 0,
    channels: int = 3,
    progress: Progress | None = None,
) -> Task:
    """Draw `ways` classes and `shots` images of each; only those are decoded.

    The draw depends on the seed and on the sorted names alone: the same on every machine and
    for a folder and its archive, and the support images do not depend on `queries`. Images are
    resized to `resolution` (a side, or height and width) bilinearly, aspect ratio not kept.

    Raises `InputError` for too few classes, a drawn class with too few images, an image that
    cannot be decoded, and numbers that make no task.
    """
    height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
    for name, value, least in (
        ("ways", ways, 1),
        ("shots", shots, 1),
        ("queries", queries, 0),
        ("seed", seed, 0),
        ("resolution", min(height, width), 1),
    ):
        if value < least:
            raise InputError(f"{name} is {value}; at least {least} is needed")
    if channels not in (1, 3):
        raise InputError(f"the model takes {channels} input channels; images have 1 or 3")

    rng = np.random.default_rng(seed)
    names = sorted(source.classes)
    if len(names) < ways:
        raise InputError(
            f"{source.description}: has {len(names)} classes; {ways} ways need as many"
        )
    chosen = sorted(names[index] for index in _draw(rng, len(names))[:ways])
    support: list[str] = []
    query: list[str] = []
    for name in chosen:
        images = sorted(source.classes[name])
        if len(images) < shots + queries:
            raise InputError(
                f"{source.description}: class {name!r} has {len(images)} images; "
                f"{shots} shots and {queries} queries need {shots + queries}"
            )
        order = _draw(rng, len(images))
        support += sorted(images[index] for index in order[:shots])
        query += sorted(images[index] for index in order[shots : shots + queries])

    paths = support + query
    size = 4 * len(paths) * channels * height * width
    if size > LARGEST_TASK_BYTES:
        raise InputError(
            f"{len(paths)} images of {height}x{width} take {format_bytes(size)}; at most "
            f"{format_bytes(LARGEST_TASK_BYTES)} are held, draw fewer or make them smaller"
        )
    slots = {path: index for index, path in enumerate(paths)}
    pixels = np.empty((len(paths), channels, height, width), np.float32)
    for done, (path, image) in enumerate(source.read(paths), start=1):
        pixels[slots.pop(path)] = to_array(image, height, width, channels)
        if progress is not None:
            progress("reading images", done, len(paths))
    if slots:
        raise InputError(f"{source.description}: {min(slots)} has gone since it was indexed")
    pixels.setflags(write=False)
    return Task(
        images=pixels[: len(support)],
        labels=_labels(ways, shots),
        class_names=tuple(chosen),
        paths=tuple(support),
        source=source.description,
        seed=seed,
        query_images=pixels[len(support) :],
        query_labels=_labels(ways, queries),
        query_paths=tuple(query),
    )


def _draw(rng: np.random.Generator, count: int) -> list[int]:
    """All of `range(count)` in a random order, from uniform doubles alone.

    `Generator.permutation` may change between numpy releases; the doubles of PCG64 do not.
    """
    order: list[int] = np.argsort(rng.random(count), kind="stable").tolist()
    return order


def _labels(ways: int, samples: int) -> NDArray[np.int64]:
    labels = np.repeat(np.arange(ways, dtype=np.int64), samples)
    labels.setflags(write=False)
    return labels
