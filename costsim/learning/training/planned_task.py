"""The images that a plan is trained on: those it was made for, drawn again, or others."""

from dataclasses import replace

import numpy as np

from costsim.base.errors import InputError
from costsim.base.progress import Progress
from costsim.data import (
    Drawing,
    ImageSource,
    Task,
    digits,
    draw_task,
    open_source,
    resolution_and_channels,
)
from costsim.learning.training.base_model import Subject
from costsim.learning.training.train_request import TrainRequest
from costsim.solving.planfile import TaskRecord, data_found_again


def draw_planned_task(
    request: TrainRequest, subject: Subject, progress: Progress | None = None
) -> Task:
    """The task to train on, with images to test on.

    Raises `InputError` where nothing is said of it and the images are not the plan's any more.
    """
    planned, source = request.plan.task, _images(request, progress)
    drawing = _drawing(request).settled(source)
    resolution, channels = resolution_and_channels(subject.input_shape)
    task = draw_task(
        source,
        drawing,
        seed=planned.seed if request.seed is None else request.seed,
        resolution=resolution,
        channels=channels,
        progress=progress,
        with_queries=request.queries != 0,
    )
    if request.is_the_plans and task.digest != planned.images_sha256:
        raise InputError(f"{request.source}: {_changed(planned, task, drawing)}")
    return task if request.queries is None else _with_queries(task, request.queries)


def _images(request: TrainRequest, progress: Progress | None) -> ImageSource:
    planned, data, split = request.plan.task, request.data, request.split
    if data is None and planned.data is not None:
        data = data_found_again(planned.data, request.source)
        split = planned.split if split is None else split
    return digits() if data is None else open_source(data, split, progress)


def _drawing(request: TrainRequest) -> Drawing:
    """The plan's rule, with what is asked otherwise of it.

    Of the plan's images as many are set aside as were then, however few are tested on. What an
    episode of other images draws, ways and shots, is the plan's where that was fixed.
    """
    planned = request.plan.task
    if request.queries is not None and request.queries < 0:
        raise InputError(f"queries is {request.queries}; at least 0 is needed")
    ways, shots, queries = request.ways, request.shots, request.queries
    if request.data is None:
        queries = max(planned.queries, queries or 0)
    if planned.episode == "meta-dataset" and ways is None and shots is None:
        return Drawing(None, None, queries, planned.episode, planned.tracks)
    if ways is None and request.data is None and shots is None:
        ways = planned.ways
    shots = planned.shots if shots is None else shots
    return Drawing(ways, shots, queries, "fixed", planned.tracks)


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


def _changed(planned: TaskRecord, task: Task, drawing: Drawing) -> str:
    told = (
        f"was made for {planned.source}, and its images are not those that "
        f"{task.description} has now"
    )
    if drawing.queries != planned.queries:
        told += f" with {drawing.queries} queries of each class, not {planned.queries}, set aside"
    return f"{told}: say which to take (--data, and --seed if need be)"
