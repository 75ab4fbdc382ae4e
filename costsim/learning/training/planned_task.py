"""The images that a plan is trained on: those it was made for, drawn again, or others."""

from dataclasses import replace

import numpy as np

from costsim.base.errors import InputError
from costsim.base.progress import Progress
from costsim.data import (
    EpisodeRule,
    FixedEpisode,
    ImageSource,
    MetaDatasetEpisode,
    Task,
    classes_of,
    digits,
    find_tracks,
    open_source,
    resolution_and_channels,
    sample_episode,
    sample_task,
)
from costsim.learning.training.base_model import Subject
from costsim.learning.training.train_request import TrainRequest
from costsim.planning import DEFAULT_WAYS
from costsim.solving.planfile import TaskRecord, data_found_again

DEFAULT_QUERIES = 10


def draw_task(request: TrainRequest, subject: Subject, progress: Progress | None = None) -> Task:
    """The task to train on, with images to test on.

    Raises `InputError` where nothing is said of it and the images are not the plan's any more.
    """
    planned, source = request.plan.task, _images(request, progress)
    seed = planned.seed if request.seed is None else request.seed
    queries = _queries(request)
    resolution, channels = resolution_and_channels(subject.input_shape)
    if _is_episode(planned):
        task = sample_episode(
            source,
            _rule(request, source, max(queries, planned.queries)),
            seed=seed,
            resolution=resolution,
            channels=channels,
            tracks=planned.tracks,
            progress=progress,
        )
        task = _with_queries(task, queries)
    else:
        shots = planned.shots if request.shots is None else request.shots
        task = sample_task(
            source,
            ways=_ways(request) or max(1, min(DEFAULT_WAYS, len(classes_of(source, shots)))),
            shots=shots,
            queries=queries,
            seed=seed,
            resolution=resolution,
            channels=channels,
            tracks=True,
            progress=progress,
        )
    if request.is_the_plans and task.digest != planned.images_sha256:
        raise InputError(f"{request.source}: {_changed(planned, task, queries)}")
    return task


def _images(request: TrainRequest, progress: Progress | None) -> ImageSource:
    planned, data, split = request.plan.task, request.data, request.split
    if data is None and planned.data is not None:
        data = data_found_again(planned.data, request.source)
        split = planned.split if split is None else split
    return digits() if data is None else open_source(data, split, progress)


def _is_episode(planned: TaskRecord) -> bool:
    """Whether what is learnt from was drawn beside what is tested on."""
    return bool(planned.queries) or planned.tracks or planned.episode != "fixed"


def _queries(request: TrainRequest) -> int:
    planned = request.plan.task
    if request.queries is not None:
        return request.queries
    return planned.queries if _is_episode(planned) else DEFAULT_QUERIES


def _ways(request: TrainRequest) -> int | None:
    """As many as asked, or as the plan's where its images are meant."""
    if request.ways is None and request.data is None and request.shots is None:
        return request.plan.task.ways
    return request.ways


def _rule(request: TrainRequest, source: ImageSource, queries: int) -> EpisodeRule:
    planned = request.plan.task
    if planned.episode == "meta-dataset" and request.ways is None and request.shots is None:
        return MetaDatasetEpisode(queries=queries)
    shots = planned.shots if request.shots is None else request.shots
    ways = _ways(request)
    if ways is None:
        tracks = find_tracks(source.classes) if planned.tracks else None
        able = FixedEpisode(1, shots, queries).able(source.classes, tracks)
        ways = max(1, min(DEFAULT_WAYS, len(able)))
    return FixedEpisode(ways, shots, queries)


def _with_queries(task: Task, queries: int) -> Task:
    """The same with no more than so many images of each class to test on."""
    kept = np.concatenate(
        [np.flatnonzero(task.query_labels == way)[:queries] for way in range(task.ways)]
    )
    return replace(
        task,
        query_images=task.query_images[kept],
        query_labels=task.query_labels[kept],
        query_paths=tuple(task.query_paths[index] for index in kept),
    )


def _changed(planned: TaskRecord, task: Task, queries: int) -> str:
    told = (
        f"was made for {planned.source}, and its images are not those that "
        f"{task.description} has now"
    )
    if _is_episode(planned) and queries > planned.queries:
        told += f" with {queries} queries of each class, not {planned.queries}, set aside"
    return f"{told}: say which to take (--data, and --seed if need be)"
