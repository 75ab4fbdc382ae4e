"""The adaptation program of a plan file: what `costsim plan` priced, compiled again."""

from dataclasses import replace

from costsim.base.errors import InputError
from costsim.base.trust import check_named
from costsim.ir.graph import LayerGraph
from costsim.ir.program.adaptation import (
    AdaptationProgram,
    Phase,
    Place,
    Scored,
    Task,
    compile_adaptation,
)
from costsim.ir.step import BitWidths
from costsim.problem.importance import layer_macs
from costsim.run.criteria import CRITERIA
from costsim.solving.planfile import AdaptationRecord, PlanFile

PLACES: tuple[Place, ...] = ("ram", "flash", "storage")


def predicted_adaptation(plan: PlanFile, source: str) -> AdaptationRecord:
    """What a plan says of the whole adaptation; raises `InputError` where it says nothing."""
    if plan.predicted is None:
        raise InputError(f"{source}: holds no plan: {plan.solver.sentence}")
    if plan.predicted.adaptation is None:
        raise InputError(
            f"{source}: predicted.adaptation is missing: nothing is said of the whole adaptation; "
            "make the plan anew with costsim plan"
        )
    return plan.predicted.adaptation


def planned_adaptation(
    plan: PlanFile,
    graph: LayerGraph,
    scored: Scored | None,
    source: str,
    bits: BitWidths | None = None,
) -> AdaptationProgram:
    """The program of all that `plan` does for its task, of `graph`, the model at its micro-batch.

    `scored`: see `planned_scoring`. `bits`: other bit widths than the plan's. Where the support
    images lie is the device's to say; a plan file has it in the bytes that lie in flash and in
    storage, so that they are where these are nearest to what it says. Raises `InputError`, naming
    `source`, for a plan that does not fit the model or itself.
    """
    predicted = predicted_adaptation(plan, source)

    def compiled(images_in: Place, bits: BitWidths) -> AdaptationProgram:
        try:
            return compile_adaptation(
                graph,
                plan.plan,
                plan.recipe,
                Task(plan.task.samples, plan.task.ways),
                scored=scored,
                images_in=images_in,
                step=replace(plan.step, bits=bits),
            )
        except InputError as error:
            raise InputError(f"{source}: {error}") from error

    def off(images_in: Place) -> int:
        found, said = stored_bytes(compiled(images_in, plan.step.bits)), predicted.stored_bytes
        return sum(abs(found.get(place, 0) - said.get(place, 0)) for place in PLACES)

    return compiled(min(PLACES, key=off), bits or plan.step.bits)


def stored_bytes(program: AdaptationProgram) -> dict[Place, int]:
    """The most bytes that lie in each place but RAM at once, where there are any."""
    found = {place: program.stored_bytes(place) for place in PLACES if place != "ram"}
    return {place: size for place, size in found.items() if size}


def planned_scoring(plan: PlanFile, graph: LayerGraph, source: str) -> Scored | None:
    """What the device scores before it chooses, as the plan lists it; None where it does not.

    Biases of normalisations are listed too, and scored on the way to the layers with MACs.
    """
    if predicted_adaptation(plan, source).of(Phase.SCORING) is None:
        return None
    entries, criterion = plan.importance.layers, plan.importance.criterion
    if criterion not in CRITERIA or not entries:
        raise InputError(
            f"{source}: importance: does not say what is scored on the device, by {criterion!r}"
        )
    names = {entry.name for entry in entries}
    if unknown := sorted(names - graph.layers.keys()):
        raise InputError(f"{source}: importance.layers: {unknown[0]!r} is not in the model")
    return Scored(
        tuple(name for name in graph.layers if name in names and layer_macs(graph, name)),
        tuple(dict.fromkeys(entry.axis for entry in entries)),
        CRITERIA.make(check_named(criterion, source, "--criterion")).work,
    )
