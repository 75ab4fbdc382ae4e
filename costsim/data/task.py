"""A few-shot task: the handful of labelled samples that one user has."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from costsim.base.errors import InputError, note
from costsim.base.progress import Progress
from costsim.base.units import counted
from costsim.data.arrays import ArraySource
from costsim.data.episode import Episode, EpisodeRule, draw_order
from costsim.data.pixels import read_pixels, to_float
from costsim.data.source import ImageSource
from costsim.data.tracks import find_tracks

Resolution = int | tuple[int, ...]
"""A side of images in pixels, or height and width; of what is no image, the whole shape."""


def resolution_and_channels(shape: Sequence[int]) -> tuple[Resolution, int | None]:
    """How to ask for samples of this shape: (channels, height, width), or that of no image."""
    if len(shape) == 3:
        return (int(shape[1]), int(shape[2])), int(shape[0])
    return tuple(int(size) for size in shape), None


@dataclass(frozen=True, eq=False)
class Task:
    """Labelled images, or samples of another kind, class after class; the arrays are read-only.

    `images` is float32 `[N, channels, H, W]` in [-1, 1] (the scale that the built-in networks were
    trained on; a model that wants another normalises in its first layer), `labels` int64 `[N]`,
    an index into `class_names`; `paths` names the images within the source. Classes may have
    different numbers of images. The `query_` fields are for testing, empty unless asked for. Of
    arrays that are no images `images` is `[N, ...]` as the model takes them, `are_images` false:
    lightly changed copies of them would mean nothing.
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
    are_images: bool = True

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the support images and their labels."""
        found = hashlib.sha256(self.labels.tobytes())
        found.update(self.images.tobytes())
        return found.hexdigest()

    @property
    def ways(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def shots_by_class(self) -> tuple[int, ...]:
        """Support images of each class."""
        return tuple(np.bincount(self.labels, minlength=self.ways).tolist())

    @property
    def queries_by_class(self) -> tuple[int, ...]:
        """Query images of each class."""
        return tuple(np.bincount(self.query_labels, minlength=self.ways).tolist())

    @property
    def shots(self) -> int | None:
        """Support images a class; None where classes have different numbers of them."""
        found = set(self.shots_by_class)
        return found.pop() if len(found) == 1 else None

    @property
    def description(self) -> str:
        """The task in one line, enough to draw it again."""
        least, most = min(self.shots_by_class), max(self.shots_by_class)
        shots = f"{least}" if least == most else f"{least} to {most}"
        return f"{self.source}, {self.ways} ways × {shots} shots, seed {self.seed}"


def classes_of(source: ImageSource, shots: int) -> list[str]:
    """The sorted names of the classes that have `shots` images; a `Note` tells which have not."""
    names = sorted(name for name, images in source.classes.items() if len(images) >= shots)
    if len(names) < len(source.classes):
        left_out = sorted(source.classes.keys() - set(names))
        more = f" and {len(left_out) - 5} more" if len(left_out) > 5 else ""
        note(
            f"{source.description}: left out are classes with fewer than {shots} images: "
            f"{', '.join(left_out[:5])}{more}"
        )
    return names


def check_classes(source: ImageSource, able: int, ways: int, shots: int) -> None:
    """Raise `InputError` where fewer classes than `ways` are `able` to give that many images."""
    if able < ways:
        few = f" with {counted(shots, 'image')} or more" if able < len(source.classes) else ""
        raise InputError(
            f"{source.description}: has {counted(able, 'class', 'classes')}{few}; "
            f"{counted(ways, 'way')} need{'s' if ways == 1 else ''} as many"
        )


def sample_task(
    source: ImageSource,
    *,
    ways: int,
    shots: int,
    seed: int,
    resolution: Resolution,
    queries: int = 0,
    channels: int | None = 3,
    progress: Progress | None = None,
) -> Task:
    """Draw `ways` classes and `shots` images of each; only those are decoded.

    The draw depends on the seed and on the sorted names alone: the same on every machine and
    for a folder and its archive, and the support images do not depend on `queries`. Classes with
    fewer than `shots` images are left out of the draw, with a `Note`. Images are
    resized to `resolution` (a side, or height and width) bilinearly, aspect ratio not kept.

    Raises `InputError` for too few classes, a drawn class with too few images, an image that
    cannot be decoded, and numbers that make no task.
    """
    sides = (resolution,) if isinstance(resolution, int) else resolution
    for name, value, least in (
        ("ways", ways, 1),
        ("shots", shots, 1),
        ("queries", queries, 0),
        ("seed", seed, 0),
        ("resolution", min(sides), 1),
    ):
        if value < least:
            raise InputError(f"{name} is {value}; at least {least} is needed")

    rng = np.random.default_rng(seed)
    names = classes_of(source, shots)
    check_classes(source, len(names), ways, shots)
    chosen = sorted(names[index] for index in draw_order(rng, len(names))[:ways])
    support: list[tuple[str, ...]] = []
    query: list[tuple[str, ...]] = []
    for name in chosen:
        images = sorted(source.classes[name])
        if len(images) < shots + queries:
            raise InputError(
                f"{source.description}: class {name!r} has "
                f"{counted(len(images), 'image')}; {counted(shots, 'shot')} and "
                f"{counted(queries, 'query', 'queries')} need {shots + queries}"
            )
        drawn = [images[index] for index in draw_order(rng, len(images))]
        support.append(tuple(sorted(drawn[:shots])))
        query.append(tuple(sorted(drawn[shots : shots + queries])))

    episode = Episode(tuple(chosen), tuple(support), tuple(query))
    return read_task(
        source, episode, seed=seed, resolution=resolution, channels=channels, progress=progress
    )


def sample_episode(
    source: ImageSource,
    rule: EpisodeRule,
    *,
    seed: int,
    resolution: Resolution,
    channels: int | None = 3,
    tracks: bool = True,
    progress: Progress | None = None,
    with_queries: bool = True,
) -> Task:
    """Draw an episode by `rule`, fixed or as in Meta-Dataset; only its images are decoded.

    With `tracks`, images that `find_tracks` takes for frames of one object are all on one side.
    Without `with_queries` the query images are set aside all the same, but not read.
    Raises `InputError` for too few classes or images, an image that cannot be decoded, and
    numbers that make no task.
    """
    if seed < 0:
        raise InputError(f"seed is {seed}; at least 0 is needed")
    found = find_tracks(source.classes) if tracks else None
    episode = rule.draw(source.classes, np.random.default_rng(seed), found, source.description)
    if not with_queries:
        episode = replace(episode, query=((),) * episode.ways)
    return read_task(
        source, episode, seed=seed, resolution=resolution, channels=channels, progress=progress
    )


def read_task(
    source: ImageSource,
    episode: Episode,
    *,
    seed: int,
    resolution: Resolution,
    channels: int | None = 3,
    progress: Progress | None = None,
) -> Task:
    """Decode the images of an episode, each once; `seed` is only recorded.

    Of what is no image `resolution` is the whole shape of a sample, and `channels` None.
    """
    if isinstance(source, ArraySource):
        return _read_arrays(source, episode, seed, resolution, channels)
    if channels is None:
        raise InputError(
            f"{source.description}: are images, and the model takes {resolution}: give "
            "arrays of that shape with --data (.npz, .npy, .csv)"
        )
    height, width = (resolution, resolution) if isinstance(resolution, int) else resolution[-2:]
    support = [path for paths in episode.support for path in paths]
    query = [path for paths in episode.query for path in paths]
    levels = read_pixels(source, support + query, height, width, channels, progress)
    return make_task(
        episode, to_float(levels[: len(support)]), to_float(levels[len(support) :]),
        source=source.description, seed=seed,
    )  # fmt: skip


def _read_arrays(
    source: ArraySource, episode: Episode, seed: int, resolution: Resolution, channels: int | None
) -> Task:
    """The same of arrays, which must have the model's own shape."""
    side = (resolution, resolution) if isinstance(resolution, int) else tuple(resolution)
    shape = side if channels is None else (channels, *side)
    support = [path for paths in episode.support for path in paths]
    values = source.values([*support, *(p for paths in episode.query for p in paths)], shape)
    task = make_task(
        episode, values[: len(support)], values[len(support) :],
        source=source.description, seed=seed,
    )  # fmt: skip
    return replace(task, are_images=source.are_images)


def make_task(
    episode: Episode,
    images: NDArray[np.float32],
    query_images: NDArray[np.float32],
    *,
    source: str,
    seed: int,
) -> Task:
    """The task of an episode whose images are given, class after class."""
    images.setflags(write=False)
    query_images.setflags(write=False)
    return Task(
        images=images,
        labels=_labels(episode.support),
        class_names=episode.class_names,
        paths=tuple(path for paths in episode.support for path in paths),
        source=source,
        seed=seed,
        query_images=query_images,
        query_labels=_labels(episode.query),
        query_paths=tuple(path for paths in episode.query for path in paths),
    )


def _labels(members: Sequence[Sequence[str]]) -> NDArray[np.int64]:
    labels = np.repeat(np.arange(len(members), dtype=np.int64), [len(paths) for paths in members])
    labels.setflags(write=False)
    return labels
