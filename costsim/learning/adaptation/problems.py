"""The problem of a task for a solver, by cost tables that are made once for many tasks."""

from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import TypeVar

from costsim.ir.step import TrainingStep
from costsim.learning.adaptation.place import Place
from costsim.learning.training.backbone import Backbone
from costsim.problem.budget import Budget
from costsim.problem.importance import Importance
from costsim.problem.problem import Problem

T = TypeVar("T")


def pose(
    backbone: Backbone,
    place: Place,
    step: TrainingStep,
    budget: Budget,
    importance: Importance,
    *,
    with_bias: bool,
) -> Problem:
    """Which channels to update within `budget` of a step, by these scores.

    The cost table is made once for a network and its passes, for all tasks and devices; with
    limits in seconds or joules once for a device and a number of images.
    """
    graph = backbone.graph(step.samples_a_pass)

    def timed() -> Problem:
        target = place.target
        return Problem(
            graph,
            step,
            importance,
            budget,
            with_bias=with_bias,
            timer=target,
            compute_w=target.power.compute.value,
        )

    if budget.latency_s is not None or budget.energy_j is not None:
        found = on_device(backbone, place, (step, budget, with_bias), timed)
    else:
        few = _few_passes(step)
        found = backbone.derived(
            (few, with_bias),
            lambda: Problem(graph, few, importance, Budget(), with_bias=with_bias),
        )
        found = found.of_step(step, budget) if few != step else found.within(budget)
    return found.rescored(importance)


def on_device(backbone: Backbone, place: Place, key: Hashable, make: Callable[[], T]) -> T:
    """What `make` made the first time it was asked for under this key, for this device."""
    known, found = backbone.derived(
        (key, place.device.name, place.target_name), lambda: (place, make())
    )
    if known.device is place.device or known.device == place.device:
        return found
    return make()  # another device of the same name


def _few_passes(step: TrainingStep) -> TrainingStep:
    """Two passes for any step of several: what they keep at a time is the same."""
    if step.passes == 1:
        return step
    return replace(step, batch=2 * step.samples_a_pass, micro_batch=step.samples_a_pass)
