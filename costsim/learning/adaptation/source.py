"""Tasks of a source domain: what a choice that is the same for all tasks is made by."""

from collections.abc import Iterator
from dataclasses import replace

from costsim.base.errors import InputError
from costsim.data import EpisodeRule, ImageSource, Progress, resolution_and_channels, sample_episode
from costsim.ir.recipe import Recipe
from costsim.learning.adaptation.place import Place
from costsim.learning.adaptation.situation import Situation
from costsim.learning.training.backbone import Backbone
from costsim.planning.request import DEFAULT_SOURCE_TASKS

FIRST_SEED = 0x53524345
"""Of source tasks: far from those that a person gives, so that no task is its own source."""


def source_situations(
    backbone: Backbone,
    images: ImageSource,
    rule: EpisodeRule,
    place: Place,
    recipe: Recipe,
    *,
    tasks: int = DEFAULT_SOURCE_TASKS,
    progress: Progress | None = None,
) -> Iterator[Situation]:
    """So many tasks drawn from `images` by `rule`, one at a time: only one is in memory.

    They follow from the sorted names and the rule alone; the seed of `recipe`, which may be that
    of the user's task, has no part in them. Raises `InputError` as `sample_episode` does.
    """
    if tasks < 1:
        raise InputError(f"source tasks: {tasks}; at least 1 is needed")
    resolution, channels = resolution_and_channels(backbone.input_shape)
    recipe = replace(recipe, seed=0)
    for number in range(tasks):
        if progress is not None:
            progress("looking at tasks of the source", number, tasks)
        task = sample_episode(
            images, rule, seed=FIRST_SEED + number, resolution=resolution, channels=channels
        )
        yield Situation(backbone, task, place, recipe)
