"""Which images an episode shows; drawn from the seed and the step's number alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from costsim.errors import InputError
from costsim.pretraining.pool import Domain
from costsim.pretraining.settings import PretrainSettings

_STREAM = 0x4D455441
"""Keeps these random numbers apart from those of other parts with the same seed."""


@dataclass(frozen=True, eq=False)
class Episode:
    """Images by row of the pool: class after class, support before query within each.

    `rows`, `labels`, `classes` and `symmetries` are int64 `[N]`: the pool's row, the label in
    the episode, the class among all training classes, and which of the square's eight symmetries
    the class is shown in (the same for all its images); `is_query` is bool `[N]`.
    """

    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    classes: NDArray[np.int64]
    symmetries: NDArray[np.int64]
    is_query: NDArray[np.bool_]
    ways: int


def generator(settings: PretrainSettings, step: int, index: int) -> Generator:
    """The random numbers of episode `index` of step `step`."""
    return np.random.default_rng([_STREAM, settings.seed, step, index])


def check_domains(domains: Sequence[Domain], settings: PretrainSettings) -> None:
    """Raise `InputError` for a source whose classes cannot fill the smallest episode."""
    if not domains:
        raise InputError("no classes are left to train on: hold out fewer")
    for domain in domains:
        if len(domain.members) < settings.ways[0]:
            raise InputError(
                f"{domain.name}: {len(domain.members)} classes to train on; episodes of "
                f"{settings.ways[0]} ways need as many"
            )
        least = settings.shots[0] + settings.queries
        for name, members in zip(domain.class_names, domain.members, strict=True):
            if len(members) < least:
                raise InputError(
                    f"{domain.name}: class {name!r} has {len(members)} images; "
                    f"{settings.shots[0]} shots and {settings.queries} queries need {least}"
                )


def draw_episode(
    rng: Generator, domains: Sequence[Domain], settings: PretrainSettings, symmetries: int
) -> Episode:
    """One episode from one source, drawn in proportion to the root of its number of classes.

    Classes are distinct, each in one of `symmetries` orientations: an orientation makes another
    class, but never two of one episode that may look alike. Shots are the same for all classes,
    at most what the smallest of them has beside the queries.
    """
    weights = np.sqrt([len(domain.members) for domain in domains])
    source = int(np.searchsorted(np.cumsum(weights) / weights.sum(), rng.random(), "right"))
    source = min(source, len(domains) - 1)
    domain = domains[source]
    offset = sum(len(other.members) for other in domains[:source])
    ways = min(_between(rng, settings.ways), len(domain.members))
    shots = _between(rng, settings.shots)
    chosen = np.argsort(rng.random(len(domain.members)), kind="stable")[:ways]
    smallest = min(len(domain.members[index]) for index in chosen)
    shots = min(shots, smallest - settings.queries)
    each = shots + settings.queries
    orientation = (rng.random(ways) * symmetries).astype(np.int64)
    rows = [
        domain.members[index][
            np.argsort(rng.random(len(domain.members[index])), kind="stable")[:each]
        ]
        for index in chosen
    ]
    return Episode(
        rows=np.concatenate(rows),
        labels=np.repeat(np.arange(ways), each),
        classes=np.repeat((offset + chosen) * symmetries + orientation, each),
        symmetries=np.repeat(orientation, each),
        is_query=np.tile(np.arange(each) >= shots, ways),
        ways=ways,
    )


def _between(rng: Generator, ends: tuple[int, int]) -> int:
    return min(ends[1], ends[0] + int(rng.random() * (ends[1] - ends[0] + 1)))
