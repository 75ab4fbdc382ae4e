"""Scores that are of no one task, for choices that are the same for all."""

from collections.abc import Iterable

import numpy as np

from costsim.base.errors import InputError
from costsim.base.units import counted
from costsim.ir.operators import UpdateKind
from costsim.learning.adaptation.situation import Situation
from costsim.problem.importance import (
    DEFAULT_INSPECTED_LAYERS,
    ChannelScores,
    Importance,
    inspected_layers,
)
from costsim.run.criteria.base import Criterion


def static_importance(
    situations: Iterable[Situation],
    criterion: str | Criterion = "fisher",
    *,
    inspect: int | None = DEFAULT_INSPECTED_LAYERS,
    axes: tuple[UpdateKind, ...] = ("output",),
) -> Importance:
    """The mean of the scores of several tasks, each scaled to a sum of 1, for static choices.

    Raises `InputError` without tasks and where all scores of a task are 0.
    """
    found, source = [], ""
    for situation in situations:  # they may come one by one, so none is kept
        layers = inspected_layers(situation.graph, inspect)
        found.append(situation.score(criterion, layers, axes))
        source = source or situation.task.source
    if not found:
        raise InputError("static scores are the mean over tasks; there are none")
    totals = [sum(sum(entry.scores) for entry in one.channels) for one in found]
    if not all(totals):
        raise InputError("all scores of a task are 0: nothing to take a mean of")
    channels = []
    for entries in zip(*(one.channels for one in found), strict=True):
        scaled = [np.array(e.scores) / total for e, total in zip(entries, totals, strict=True)]
        mean: list[float] = np.mean(scaled, axis=0).tolist()
        channels.append(ChannelScores(entries[0].layer, entries[0].axis, tuple(mean)))
    return Importance(
        criterion=found[0].criterion,
        channels=tuple(channels),
        samples=sum(one.samples for one in found),
        seed=found[0].seed,
        source=f"the mean over {counted(len(found), 'task')} of {source}",
    )


def no_source(name: str) -> InputError:
    """What a method of this name says that was shown no tasks of a source domain."""
    return InputError(f"{name}: needs scores of tasks of another domain (a source)")
