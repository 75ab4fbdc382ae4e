"""Drawing episodes: which classes, and which of their images to learn from and to test on.

An episode is names alone; nothing is decoded. What is drawn depends on the generator and on the
sorted names, and is drawn from uniform doubles only, which numpy keeps the same for ever.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from costsim.base.errors import InputError

Classes: TypeAlias = Mapping[str, Sequence[str]]
"""The names of the images of each class."""

Tracks: TypeAlias = Mapping[str, str]
"""The track of each image; images of one track are never on both sides of an episode."""


@dataclass(frozen=True)
class Episode:
    """Class after class, in ascending order, the names of its support and of its query images."""

    class_names: tuple[str, ...]
    support: tuple[tuple[str, ...], ...]
    query: tuple[tuple[str, ...], ...]

    @property
    def ways(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def shots(self) -> tuple[int, ...]:
        """Support images of each class."""
        return tuple(map(len, self.support))


class EpisodeRule(ABC):
    """How many classes and images an episode has; subclasses are frozen dataclasses."""

    @property
    @abstractmethod
    def description(self) -> str:
        """The rule in a few words, enough to draw by it again."""

    @abstractmethod
    def draw(
        self,
        classes: Classes,
        rng: np.random.Generator,
        tracks: Tracks | None = None,
        where: str = "the images",
    ) -> Episode:
        """An episode of `classes`; raises `InputError`, naming `where`, if there are too few."""


@dataclass(frozen=True)
class FixedEpisode(EpisodeRule):
    """`ways` classes of `shots` support and `queries` query images each.

    Classes with too few images are left out. Without tracks and where no class is too small it
    draws what `sample_task` does.
    """

    ways: int
    shots: int
    queries: int = 10

    def __post_init__(self) -> None:
        _at_least(self, ways=1, shots=1, queries=0)

    @property
    def description(self) -> str:
        """Such as `10 ways × 5 shots`."""
        return f"{self.ways} ways × {self.shots} shots"

    def draw(
        self,
        classes: Classes,
        rng: np.random.Generator,
        tracks: Tracks | None = None,
        where: str = "the images",
    ) -> Episode:
        """See `EpisodeRule.draw`."""
        needed = self.shots + self.queries
        able = self.able(classes, tracks)
        if len(able) < self.ways:
            apart = " of separate tracks" if tracks and self.queries else ""
            also = f" and {self.queries} queries" if self.queries else ""
            raise InputError(
                f"{where}: {len(able)} of its {len(classes)} classes have the {needed} images"
                f"{apart} that {self.shots} shots{also} need; {self.ways} ways need as many classes"
            )
        chosen = sorted(able[index] for index in draw_order(rng, len(able))[: self.ways])
        support, query = [], []
        for name in chosen:
            learnt, tested = _divide(classes[name], tracks, self.queries, self.shots, rng)
            support.append(tuple(sorted(learnt[: self.shots])))
            query.append(tuple(sorted(tested[: self.queries])))
        return Episode(tuple(chosen), tuple(support), tuple(query))

    def able(self, classes: Classes, tracks: Tracks | None = None) -> list[str]:
        """The classes with enough images, in ascending order."""
        return _divisible_classes(classes, tracks, self.queries, self.shots)


@dataclass(frozen=True)
class MetaDatasetEpisode(EpisodeRule):
    """Varying ways and shots, as Meta-Dataset draws from domains without a hierarchy of classes.

    Triantafillou et al., "Meta-Dataset", ICLR 2020, section 3.2 and appendix: with `I(c)` the
    images of class c,

    - ways: uniform in `least_ways` .. min(`most_ways`, number of classes), classes uniform;
    - queries of each class: `q = min(queries, min_c floor(I(c) / 2))`;
    - support in all: `|S| = min(most_support, Σ_c ceil(β min(most_shots, I(c) - q)))`, β in (0, 1];
    - support of class c: `min(floor(R_c (|S| - ways)) + 1, I(c) - q)` with `R_c` in proportion to
      `exp(α_c) I(c)`, `α_c` uniform in [log 0.5, log 2); here at most `most_shots` too.

    With tracks, `I(c) - q` is the number of images in the tracks left for support, and `q` no
    more than the tracks left for queries hold. Classes that cannot be divided are left out.
    """

    least_ways: int = 5
    most_ways: int = 50
    queries: int = 10
    most_shots: int = 100
    most_support: int = 500

    def __post_init__(self) -> None:
        _at_least(self, least_ways=2, queries=1, most_shots=1)
        _at_least(self, most_ways=self.least_ways, most_support=self.most_ways)

    @property
    def description(self) -> str:
        """Its name."""
        return "meta-dataset episode"

    def draw(
        self,
        classes: Classes,
        rng: np.random.Generator,
        tracks: Tracks | None = None,
        where: str = "the images",
    ) -> Episode:
        """See `EpisodeRule.draw`."""
        able = _divisible_classes(classes, tracks, 1, 1)
        if len(able) < self.least_ways:
            apart = " in separate tracks" if tracks else ""
            raise InputError(
                f"{where}: {len(able)} of its {len(classes)} classes have at least 2 images"
                f"{apart}; a {self.description} needs {self.least_ways} classes"
            )
        most = min(self.most_ways, len(able))
        ways = self.least_ways + int(rng.random() * (most - self.least_ways + 1))
        chosen = sorted(able[index] for index in draw_order(rng, len(able))[:ways])

        pools = []
        for name in chosen:
            images, sizes = classes[name], _sizes(classes[name], tracks)
            wanted = min(self.queries, len(images) // 2)
            while not _divisible(sizes, wanted, 1):  # one track may hold nearly all images
                wanted -= 1
            pools.append(_divide(images, tracks, wanted, 1, rng, wanted))
        queries = min(self.queries, *(len(tested) for _, tested in pools))
        if tracks is None:  # what one class cannot test is left to all to learn from
            pools = [(learnt + tested[queries:], tested[:queries]) for learnt, tested in pools]
        left = [len(learnt) for learnt, _ in pools]

        beta = 1 - rng.random()  # in (0, 1]
        total = sum(math.ceil(beta * min(self.most_shots, count)) for count in left)
        total = min(self.most_support, total)
        spread = math.log(0.5) + rng.random(ways) * (math.log(2) - math.log(0.5))
        weights = np.exp(spread) * [len(classes[name]) for name in chosen]
        shares = weights / weights.sum()
        shots = [
            min(math.floor(share * (total - ways)) + 1, count, self.most_shots)
            for share, count in zip(shares, left, strict=True)
        ]
        return Episode(
            tuple(chosen),
            tuple(
                tuple(sorted(learnt[:count]))
                for (learnt, _), count in zip(pools, shots, strict=True)
            ),
            tuple(tuple(sorted(tested[:queries])) for _, tested in pools),
        )


def draw_order(rng: np.random.Generator, count: int) -> list[int]:
    """All of `range(count)` in a random order, from uniform doubles alone.

    `Generator.permutation` may change between numpy releases; the doubles of PCG64 do not.
    """
    order: list[int] = np.argsort(rng.random(count), kind="stable").tolist()
    return order


def _at_least(rule: EpisodeRule, **least: int) -> None:
    for name, value in least.items():
        if getattr(rule, name) < value:
            told = name.replace("_", " ")
            raise InputError(f"{told} is {getattr(rule, name)}; at least {value} is needed")


def _sizes(names: Sequence[str], tracks: Tracks | None) -> list[int]:
    """Images of each track of a class; without tracks each image is on its own."""
    if tracks is None:
        return [1] * len(names)
    counts: dict[str, int] = {}
    for name in names:
        counts[tracks[name]] = counts.get(tracks[name], 0) + 1
    return list(counts.values())


def _divisible_classes(
    classes: Classes, tracks: Tracks | None, queries: int, shots: int
) -> list[str]:
    """The classes of which that many images can be tested on and learnt from, in order."""
    needed = queries + shots
    return [
        name
        for name in sorted(classes)
        if len(classes[name]) >= needed
        and (tracks is None or _divisible(_sizes(classes[name], tracks), queries, shots))
    ]


def _sums(sizes: Iterable[int]) -> int:
    """The sums that some of `sizes` add up to, as the bits of an integer."""
    found = 1
    for size in sizes:
        found |= found << size
    return found


def _divisible(sizes: Sequence[int], queries: int, shots: int) -> bool:
    """Whether whole tracks can be set aside with at least `queries` images, `shots` left."""
    return _any_between(_sums(sizes), queries, sum(sizes) - shots)


def _any_between(sums: int, first: int, last: int) -> bool:
    """Whether a sum lies in `first` .. `last`."""
    first = max(first, 0)
    return last >= first and (sums >> first) & ((1 << (last - first + 1)) - 1) != 0


def _divide(
    names: Sequence[str],
    tracks: Tracks | None,
    queries: int,
    shots: int,
    rng: np.random.Generator,
    enough: int | None = None,
) -> tuple[list[str], list[str]]:
    """Images to learn from and images to test on, each in random order, no track on both sides.

    Without tracks the first `shots` of one random order come first, so that what is learnt does
    not hang on how many queries are asked for; with `enough`, the other way round. With tracks,
    random ones are set aside for testing until they have `queries` images, as long as what is
    left can still be divided as asked.
    """
    ordered = sorted(names)
    images = [ordered[index] for index in draw_order(rng, len(ordered))]
    if tracks is None:
        if enough is not None:
            return images[enough:], images[:enough]
        return images[:shots], images[shots:]
    members: dict[str, list[str]] = {}
    for name in images:  # a track comes where its first image does
        members.setdefault(tracks[name], []).append(name)
    groups = list(members.values())
    later = [1]
    for group in reversed(groups):
        later.append(later[-1] | later[-1] << len(group))
    later.reverse()
    most = len(images) - shots
    tested: set[str] = set()
    for position, group in enumerate(groups):
        taken = len(tested) + len(group)
        reachable = later[position + 1]
        can_take = _any_between(reachable, queries - taken, most - taken)
        can_leave = _any_between(reachable, queries - len(tested), most - len(tested))
        if can_take and (len(tested) < queries or not can_leave):
            tested.update(group)
    return [n for n in images if n not in tested], [n for n in images if n in tested]
