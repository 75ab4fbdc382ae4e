"""Which images an episode shows; drawn from the seed and the step's number alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from costsim.base.errors import InputError
from costsim.base.units import counted
from costsim.data import EpisodeRule, FixedEpisode, MetaDatasetEpisode
from costsim.learning.pretraining.pool import Domain
from costsim.learning.pretraining.settings import PretrainSettings

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
        if settings.episode == "fixed":
            _check_fixed(domain, settings)
        rule = _smallest(settings)
        rule.draw(domain.classes, np.random.default_rng(0), domain.tracks, domain.name)


def _check_fixed(domain: Domain, settings: PretrainSettings) -> None:
    if len(domain.classes) < settings.ways[0]:
        raise InputError(
            f"{domain.name}: {counted(len(domain.classes), 'class', 'classes')} to train on; "
            f"episodes of {settings.ways[0]} ways need as many"
        )
    least = settings.shots[0] + settings.queries
    for name, images in domain.classes.items():
        if len(images) < least:
            raise InputError(
                f"{domain.name}: class {name!r} has "
                f"{counted(len(images), 'image')}; {counted(settings.shots[0], 'shot')} and "
                f"{counted(settings.queries, 'query', 'queries')} need {least}"
            )


def draw_episode(
    rng: Generator, domains: Sequence[Domain], settings: PretrainSettings, symmetries: int
) -> Episode:
    """One episode from one source, drawn in proportion to the root of its number of classes.

    By the rules of `costsim.data`, the same as of tasks. Each class comes in one of `symmetries`
    orientations: an orientation makes another class, but never two of one episode that may look
    alike.
    """
    weights = np.sqrt([len(domain.classes) for domain in domains])
    source = int(np.searchsorted(np.cumsum(weights) / weights.sum(), rng.random(), "right"))
    source = min(source, len(domains) - 1)
    domain = domains[source]
    offset = sum(len(other.classes) for other in domains[:source])
    rule = _rule(rng, domain, settings)
    drawn = rule.draw(domain.classes, rng, domain.tracks, domain.name)
    orientation = (rng.random(drawn.ways) * symmetries).astype(np.int64)
    names, each, is_query = list[str](), list[int](), list[bool]()
    for support, query in zip(drawn.support, drawn.query, strict=True):
        names += [*support, *query]
        each.append(len(support) + len(query))
        is_query += [False] * len(support) + [True] * len(query)
    numbers = np.array([offset + domain.numbers[name] for name in drawn.class_names])
    return Episode(
        rows=np.array([domain.rows[name] for name in names], dtype=np.int64),
        labels=np.repeat(np.arange(drawn.ways), each),
        classes=np.repeat(numbers * symmetries + orientation, each),
        symmetries=np.repeat(orientation, each),
        is_query=np.array(is_query),
        ways=drawn.ways,
    )


def _smallest(settings: PretrainSettings) -> EpisodeRule:
    """What every source must be able to fill."""
    if settings.episode == "fixed":
        return FixedEpisode(settings.ways[0], settings.shots[0], settings.queries)
    return _meta_dataset(settings)


def _meta_dataset(settings: PretrainSettings) -> MetaDatasetEpisode:
    return MetaDatasetEpisode(
        least_ways=settings.ways[0],
        most_ways=settings.ways[1],
        queries=settings.queries,
        most_support=settings.most_support,
    )


def _rule(rng: Generator, domain: Domain, settings: PretrainSettings) -> EpisodeRule:
    """That of one episode: a fixed one has as many ways and shots as drawn and as there are."""
    if settings.episode == "meta-dataset":
        return _meta_dataset(settings)
    least, shots = settings.shots[0], _between(rng, settings.shots)
    ways = _between(rng, settings.ways)
    most = FixedEpisode(1, least, settings.queries).able(domain.classes, domain.tracks)
    ways = min(ways, len(most))
    while True:
        rule = FixedEpisode(ways, shots, settings.queries)
        if shots <= least or len(rule.able(domain.classes, domain.tracks)) >= ways:
            return rule
        shots -= 1


def _between(rng: Generator, ends: tuple[int, int]) -> int:
    return min(ends[1], ends[0] + int(rng.random() * (ends[1] - ends[0] + 1)))
