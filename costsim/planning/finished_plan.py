"""From a solution to its plan file, and what a person should know of it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from costsim.base.files import file_sha256
from costsim.base.progress import Progress, silent
from costsim.base.units import counted, format_bytes
from costsim.device import DeviceSpec
from costsim.ir.graph import LayerGraph
from costsim.ir.program.adaptation import Phase
from costsim.ir.recipe import Recipe
from costsim.ir.step import TrainingStep
from costsim.models.loading import UNSEEN_GRADIENTS, LoadedModel
from costsim.planning.alternatives import Alternative, alternatives
from costsim.planning.hints import hint
from costsim.planning.joint_question import asked_of, planned_recipe, step_showing
from costsim.planning.posed_problem import Prepared, parameters_digest
from costsim.planning.recipe_freedom import Freedom
from costsim.planning.recipes import PricedRecipe, choose_cache, unkept
from costsim.planning.request import PlanRequest
from costsim.planning.swapping import ways_of_training
from costsim.pricing.adaptation import AdaptationCost
from costsim.pricing.cost import MemoryCost
from costsim.problem.importance import Importance, left_frozen
from costsim.problem.named_layers import NamedLayers
from costsim.problem.problem import Problem
from costsim.problem.solution import Solution, Status
from costsim.run.criteria.caveats import (
    data_caveat,
    output_caveat,
    score_caveat,
    weights_caveat,
)
from costsim.solving.explain import Explanation, explain
from costsim.solving.planfile import ModelRecord, PlanFile, plan_file


@dataclass(frozen=True)
class Planned:
    """A plan and what it was made from. `warnings` are sentences for a person.

    `too_large` says that the device has no room for the network itself, `no_room` that it has none
    for the whole adaptation; empty where it has.
    """

    file: PlanFile
    graph: LayerGraph
    importance: Importance
    solution: Solution
    warnings: tuple[str, ...]
    too_large: str = ""
    no_room: str = ""


def conclude(
    prepared: Prepared,
    solution: Solution,
    progress: Progress | None = None,
    *,
    priced: PricedRecipe | None = None,
    others: tuple[Alternative, ...] = (),
) -> Planned:
    """The plan file of a solution of what was prepared, and what a person should know of it.

    `priced`: by which recipe, where that was chosen with it; else where the network is cut and what
    is kept is chosen here. `others`: what was chosen beside the recipe, at other values.
    """
    request, loaded, problem = prepared.request, prepared.loaded, prepared.problem
    explanation = None
    if request.explain_with is not None:
        explanation = explain(problem, solution, request.explain_with, progress)
    if priced is None and solution.plan is not None:
        (progress or silent)("pricing the whole adaptation", 0, 0)
        asked = asked_of(prepared, solution.plan)
        priced = choose_cache(asked, planned_recipe(prepared), request.caches)
    if priced is not None and solution.plan is not None:
        freedom = Freedom.within_evidence(planned_recipe(prepared), pinned=request.pinned)
        asked = asked_of(prepared, solution.plan)
        others = (
            *alternatives(
                lambda interval: replace(asked, step=step_showing(prepared, interval)),
                priced,
                freedom,
                request.caches,
            ),
            *others,
        )
    file = file_of(prepared, solution, priced, explanation=explanation, others=others)
    warnings = (
        *model_notes(loaded, problem.graph),
        *_of_the_whole(prepared, solution, priced),
        *_warnings(prepared, solution, priced),
        *_hints(request, problem, solution),
    )
    no_room = ""
    if solution.cost is not None and priced is not None and priced.cost.latency_s is None:
        no_room = _no_room(request.device, priced.cost, solution.cost.memory)
    return Planned(
        file,
        problem.graph,
        problem.importance,
        solution,
        (*warnings, no_room) if no_room else warnings,
        _too_large(request, solution),
        no_room,
    )


def file_of(
    prepared: Prepared,
    solution: Solution,
    priced: PricedRecipe | None = None,
    *,
    explanation: Explanation | None = None,
    others: tuple[Alternative, ...] = (),
) -> PlanFile:
    """The plan file of a solution; without `priced` it says nothing of the whole adaptation."""
    request, loaded, problem = prepared.request, prepared.loaded, prepared.problem
    return plan_file(
        model=ModelRecord(
            name=loaded.name,
            spec=loaded.spec,
            weights=None if request.weights is None else str(request.weights),
            weights_sha256=None if request.weights is None else file_sha256(request.weights),
            resolution=int(loaded.example_input.shape[-1]),
            provenance=loaded.provenance,
            parameters_sha256=parameters_digest(prepared.tensors),
            batch_norm=None if loaded.folded is None else "folded",
        ),
        graph=problem.graph,
        step=problem.step,
        task=prepared.scored.task,
        recipe=planned_recipe(prepared) if priced is None else priced.recipe,
        budget=problem.budget,
        task_budget=request.task_budget,
        solution=solution,
        importance=problem.importance,
        seed=request.seed,
        loss=request.loss,
        device=request.device,
        target=request.target,
        adaptation=None if priced is None else priced.cost,
        uncached=None if priced is None else priced.uncached,
        alternatives=others,
        explanation=explanation,
        named=NamedLayers(request.layers, request.exclude),
        ways=() if priced is None else ways_of_training(prepared, solution),
    )


def model_notes(loaded: LoadedModel, graph: LayerGraph) -> tuple[str, ...]:
    """What a person should know of the model itself, before any plan."""
    found = []
    if told := left_frozen(graph):
        found.append(f"{told}, and no candidates")
    if loaded.fixed_batch:
        found.append(f"{loaded.spec}: {UNSEEN_GRADIENTS}")
    if loaded.folded is not None:
        found.append(loaded.folded.sentence)
    return tuple(found)


def _hints(request: PlanRequest, problem: Problem, solution: Solution) -> tuple[str, ...]:
    """What would do, where nothing fits a step."""
    if solution.status is not Status.INFEASIBLE:
        return ()
    told = hint(problem, request.device, request.budget.typed)
    return (told,) if told else ()


def _too_large(request: PlanRequest, solution: Solution) -> str:
    """Where frozen weights are in flash no plan makes room for them: say so."""
    device, cost = request.device, solution.cost
    if cost is None or not device.is_microcontroller:
        return ""
    weights_bytes = cost.memory.frozen_weight_bytes
    if weights_bytes <= device.flash_bytes:
        return ""
    return (
        f"The weights take {format_bytes(weights_bytes)} of flash at "
        f"{request.step_bits.weights} bits, and {device.name} has "
        f"{format_bytes(device.flash_bytes)}: fewer --bits or a smaller network would do"
    )


def _of_the_whole(
    prepared: Prepared, solution: Solution, priced: PricedRecipe | None
) -> Iterator[str]:
    """What is otherwise than asked of a recipe that there is a plan by."""
    if solution.plan is None or priced is None:
        return
    yield from _filled(priced.recipe, prepared.problem.step, prepared.scored.task.samples)
    told = unkept(asked_of(prepared, solution.plan), priced, prepared.request.caches)
    if told is not None:
        yield told


def _filled(recipe: Recipe, step: TrainingStep, samples: int) -> tuple[str, ...]:
    """That a pass of a step has places to fill, where an iteration shows fewer images."""
    shown = recipe.images_a_step(samples)
    if recipe.batch is not None or step.batch == shown:
        return ()
    return (
        f"an iteration shows {counted(shown, 'image')} in {counted(step.passes, 'pass', 'passes')} "
        f"of {step.samples_a_pass}: what the last is filled up with costs as much",
    )


def _no_room(device: DeviceSpec, cost: AdaptationCost, memory: MemoryCost) -> str:
    """Where the whole adaptation does not fit, and what would help."""
    weights = memory.frozen_weight_bytes + memory.updated_weight_bytes
    images = cost.stored_bytes.get("flash", 0)
    if device.is_microcontroller and (needed := weights + images) > device.flash_bytes:
        return (
            f"the whole adaptation does not fit: weights and support images take "
            f"{format_bytes(needed)} of flash, and {device.name} has "
            f"{format_bytes(device.flash_bytes)}; fewer or smaller images would do (--ways, "
            "--shots, --resolution)"
        )
    needed = cost.peak_bytes + weights * (not device.is_microcontroller)
    return (
        f"the whole adaptation does not fit: {cost.peak.phase} takes {format_bytes(needed)} of "
        f"RAM, and {device.name} has {format_bytes(device.largest_block_bytes)} in one piece"
    )


def caveats(prepared: Prepared) -> tuple[str, ...]:
    """What to know of the scores before believing them; see `costsim.run.criteria.caveats`."""
    request, loaded, problem = prepared.request, prepared.loaded, prepared.problem
    found = [score_caveat(problem.importance), weights_caveat(loaded.name, loaded.provenance)]
    if problem.importance.samples:
        ways = prepared.scored.task.ways
        found += [
            output_caveat(problem.graph, request.loss, ways),
            data_caveat(loaded.spec, built_in=request.built_in, given=request.data is not None),
        ]
    return tuple(told for told in found if told is not None)


def _warnings(
    prepared: Prepared, solution: Solution, priced: PricedRecipe | None
) -> tuple[str, ...]:
    request, problem = prepared.request, prepared.problem
    found = [*caveats(prepared)]
    target = request.device.target(request.target)
    if request.step_bits.activations < 32 and target.at(request.step_bits) is target:
        found.append(
            f"time and energy are estimated at the rates of 32-bit kernels; those for "
            f"{request.step_bits.activations}-bit activations may be faster"
        )
    if request.device.is_microcontroller:
        from costsim.c.emission.support import why_not_emitted  # of no other device's business

        reason = why_not_emitted(problem.step)
        if reason is not None:
            found.append(f"this step cannot be exported as C: {reason}")
    if solution.cost is not None:
        memory, room = solution.cost.memory, request.device.largest_block_bytes
        if memory.peak_bytes <= room < memory.arena_bytes:
            found.append(
                f"the arena needs {format_bytes(memory.arena_bytes)}, more than the "
                f"{format_bytes(room)} that the device has in one piece, though never that many "
                "are live"
            )
        scoring = None if priced is None else priced.cost.of(Phase.SCORING)
        if scoring is not None:
            weights = memory.frozen_weight_bytes + memory.updated_weight_bytes
            in_ram = request.device.placement.frozen_weights == "ram"
            needed = scoring.peak_bytes + weights * in_ram
            if needed > room:
                found.append(
                    f"choosing would hold {format_bytes(needed)} at once, more than the "
                    f"{format_bytes(room)} that the device has: choose on another machine, or "
                    "inspect fewer layers (--inspect)"
                )
    return tuple(found)
