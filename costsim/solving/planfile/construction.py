"""From a solution to its plan file."""

import platform
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from typing import Any, Protocol

from costsim import __version__
from costsim.device import DeviceSpec
from costsim.ir.graph import LayerGraph
from costsim.ir.plan import UpdatePlan
from costsim.ir.program import plan_atoms
from costsim.ir.recipe import Recipe
from costsim.ir.step import TrainingStep
from costsim.pricing.accounting.autograd import autograd_memory
from costsim.pricing.adaptation import AdaptationCost
from costsim.pricing.cost import full_backward_macs
from costsim.pricing.ways import Way
from costsim.problem.budget import Budget
from costsim.problem.importance import Importance
from costsim.problem.named_layers import NamedLayers
from costsim.problem.solution import Solution
from costsim.problem.task_budget import TaskBudget
from costsim.solving.explain import Explanation
from costsim.solving.planfile.document import PlanFile
from costsim.solving.planfile.questions import CandidatesRecord, ExplanationRecord
from costsim.solving.planfile.records import (
    DeviceRecord,
    ImportanceRecord,
    InspectedLayer,
    ModelRecord,
    Prediction,
    SolverRecord,
    TaskRecord,
    WayRecord,
)


class OtherRecipe(Protocol):
    """A part of a recipe at another value, and what an adaptation by that recipe costs."""

    @property
    def part(self) -> str:
        """The field of the recipe."""

    @property
    def value(self) -> int | str:
        """Its other value."""

    @property
    def cost(self) -> AdaptationCost:
        """All of it, by the recipe with that."""


def plan_file(  # noqa: PLR0913 - one for each part of the file
    *,
    model: ModelRecord,
    graph: LayerGraph,
    step: TrainingStep,
    task: TaskRecord,
    recipe: Recipe,
    budget: Budget,
    solution: Solution,
    importance: Importance,
    seed: int,
    loss: str | None,
    device: DeviceSpec | None = None,
    target: str | None = None,
    adaptation: AdaptationCost | None = None,
    uncached: AdaptationCost | None = None,
    alternatives: Sequence[OtherRecipe] = (),
    explanation: Explanation | None = None,
    named: NamedLayers | None = None,
    task_budget: TaskBudget | None = None,
    ways: Sequence[Way] = (),
) -> PlanFile:
    """The plan file of a solution. `target` None is the default one of `device`."""
    plan = solution.plan or UpdatePlan()
    predicted = None
    if solution.plan is not None and solution.cost is not None:
        costs = solution.cost.to_json(budget.accounting)
        costs["memory"]["autograd_kept_bytes"] = autograd_memory(graph, plan).kept_bytes
        costs["macs"]["full_backward"] = full_backward_macs(graph, step)
        if adaptation is not None:
            without = None if uncached is None else uncached.latency_s
            costs["adaptation"] = {
                **adaptation.to_json(),
                "uncached_s": None if without is None else without.to_json(),
                "alternatives": [_alternative(one) for one in alternatives],
            }
        predicted = Prediction.model_validate(costs)
    updated = plan.by_layer.keys() | plan.biases
    return PlanFile(
        model=model,
        device=None if device is None else _device_record(device, target),
        device_spec=device,
        step=step,
        task=task,
        recipe=recipe,
        budget=budget,
        task_budget=task_budget or TaskBudget(),
        plan=plan,
        order=tuple(name for name in graph.layers if name in updated),
        predicted=predicted,
        solver=SolverRecord(
            **solution.to_json(),
            sentence=solution.status.sentence,
            reason=solution.reason,
            share=importance.share(solution.objective),
        ),
        importance=_importance_record(importance, plan),
        seed=seed,
        versions=_versions(),
        loss=loss,
        explanation=(
            None if explanation is None else ExplanationRecord.model_validate(explanation.to_json())
        ),
        candidates=_candidates_record(graph, named or NamedLayers()),
        ways=tuple(WayRecord.model_validate(way.to_json()) for way in ways),
    )


def _alternative(other: OtherRecipe) -> dict[str, Any]:
    latency, energy = other.cost.latency_s, other.cost.energy_j
    return {
        "part": other.part,
        "value": other.value,
        "latency_s": None if latency is None else latency.to_json(),
        "energy_j": None if energy is None else energy.to_json(),
    }


def _device_record(device: DeviceSpec, target: str | None) -> DeviceRecord:
    return DeviceRecord(
        name=device.name,
        target=target or device.default_target,
        title=device.title,
        target_title=device.target(target).title,
        frozen_weights=device.placement.frozen_weights,
        room_bytes=device.largest_block_bytes,
    )


def _candidates_record(graph: LayerGraph, named: NamedLayers) -> CandidatesRecord | None:
    frozen = sum(parameter.size for parameter in graph.frozen)
    if not (frozen or named.layers or named.exclude):
        return None
    return CandidatesRecord(layers=named.layers, exclude=named.exclude, frozen_parameters=frozen)


def _importance_record(importance: Importance, plan: UpdatePlan) -> ImportanceRecord:
    layers, updated = [], plan_atoms(plan)
    for entry in importance.channels:
        chosen = updated.get((entry.axis, entry.layer), ())
        layers.append(
            InspectedLayer(
                name=entry.layer,
                axis=entry.axis,
                potential=float(sum(entry.scores)),
                gain=float(sum(entry.scores[channel] for channel in chosen)),
            )
        )
    return ImportanceRecord(
        criterion=importance.criterion,
        samples=importance.samples,
        source=importance.source,
        layers=tuple(layers),
    )


def _versions() -> dict[str, str]:
    return {
        "costsim": __version__,
        "python": platform.python_version(),
        "torch": _installed("torch"),
        "numpy": _installed("numpy"),
    }


@cache
def _installed(package: str) -> str:
    """Its version, which is read from files: once, for whoever makes many plans."""
    return version(package)
