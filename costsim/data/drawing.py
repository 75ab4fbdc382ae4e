"""Which few-shot task is drawn from images: one rule, whichever command draws."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from costsim.base.errors import InputError, note
from costsim.base.progress import Progress
from costsim.base.units import counted
from costsim.data.episode import EpisodeRule, FixedEpisode, MetaDatasetEpisode
from costsim.data.source import ImageSource
from costsim.data.task import Resolution, Task, check_classes, sample_episode
from costsim.data.tracks import find_tracks

EpisodeName: TypeAlias = Literal["fixed", "meta-dataset"]

DEFAULT_WAYS = 10
DEFAULT_SHOTS = 5
DEFAULT_QUERIES = 10


@dataclass(frozen=True, slots=True)
class Drawing:
    """How a task is drawn: what is None follows from the images, see `settled`.

    `episode`: whether ways and shots are as said, or vary as in Meta-Dataset. `queries` images of
    each class are set aside to test on, also where nothing is tested: what is learnt from must not
    hang on who asks. `tracks`: frames of one object (`find_tracks`) are learnt from or tested on,
    never both.
    """

    ways: int | None = None
    shots: int | None = None
    queries: int | None = None
    episode: EpisodeName = "fixed"
    tracks: bool = True

    def settled(self, source: ImageSource) -> "Drawing":
        """The same with nothing left open; says in a `Note` what the images do not allow.

        Of classes those that have `shots` images, up to `DEFAULT_WAYS` of them; of queries up to
        `DEFAULT_QUERIES`, as many as leave that many classes. Raises `InputError` for ways or shots
        of an episode that draws its own.
        """
        queries = self.queries
        if self.episode == "meta-dataset":
            for name, value in (("ways", self.ways), ("shots", self.shots)):
                if value is not None:
                    raise InputError(f"--{name} is drawn in a meta-dataset episode; leave it out")
            return replace(self, queries=DEFAULT_QUERIES if queries is None else queries)
        shots = DEFAULT_SHOTS if self.shots is None else self.shots
        tracks = find_tracks(source.classes) if self.tracks else None
        if queries is None:
            queries = _most_queries(source, tracks, self.ways, shots)
            if queries < DEFAULT_QUERIES:
                note(
                    f"{source.description}: beside {counted(shots, 'shot')} there "
                    f"{'is' if queries == 1 else 'are'} {counted(queries, 'image')} of a class to "
                    f"test on, not {DEFAULT_QUERIES}"
                )
        able = FixedEpisode(1, shots, queries).able(source.classes, tracks)
        _tell_left_out(source, able, shots, queries)
        ways = max(1, min(DEFAULT_WAYS, len(able))) if self.ways is None else self.ways
        return replace(self, ways=ways, shots=shots, queries=queries)

    @property
    def rule(self) -> EpisodeRule:
        """The rule of one that is settled; raises `InputError` for numbers that make no task."""
        assert self.queries is not None
        if self.episode == "meta-dataset":
            return MetaDatasetEpisode(queries=self.queries)
        assert self.ways is not None
        assert self.shots is not None
        return FixedEpisode(self.ways, self.shots, self.queries)


def draw_task(
    source: ImageSource,
    drawing: Drawing,
    *,
    seed: int,
    resolution: Resolution,
    channels: int | None = 3,
    progress: Progress | None = None,
    with_queries: bool = True,
) -> Task:
    """The task that is drawn from `source` by a settled drawing; see `sample_episode`."""
    return sample_episode(
        source,
        drawing.rule,
        seed=seed,
        resolution=resolution,
        channels=channels,
        tracks=drawing.tracks,
        progress=progress,
        with_queries=with_queries,
    )


def _most_queries(
    source: ImageSource, tracks: Mapping[str, str] | None, ways: int | None, shots: int
) -> int:
    """The most up to `DEFAULT_QUERIES` that leave the classes wanted, or all there are.

    Raises `InputError` for fewer classes than ways.
    """

    def able(queries: int) -> int:
        return len(FixedEpisode(1, shots, queries).able(source.classes, tracks))

    there = able(0)
    check_classes(source, there, 1 if ways is None else ways, shots)
    wanted = min(DEFAULT_WAYS, there) if ways is None else ways
    return next(count for count in range(DEFAULT_QUERIES, -1, -1) if able(count) >= wanted)


def _tell_left_out(source: ImageSource, able: list[str], shots: int, queries: int) -> None:
    left_out = sorted(source.classes.keys() - set(able))
    if left_out and able:
        more = f" and {len(left_out) - 5} more" if len(left_out) > 5 else ""
        also = f" and {counted(queries, 'query', 'queries')}" if queries else ""
        note(
            f"{source.description}: left out are classes without images enough for "
            f"{counted(shots, 'shot')}{also}: {', '.join(left_out[:5])}{more}"
        )
