"""Plan files of plans chosen by hand."""

from typing import Any

from graphs import chain

from costsim.device import load_device
from costsim.ir.graph import LayerGraph
from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.ir.program import compile_program
from costsim.ir.program.adaptation import Scored, Task, compile_adaptation
from costsim.ir.recipe import Loss, Recipe
from costsim.ir.step import TrainingStep
from costsim.pricing.adaptation import price_adaptation
from costsim.pricing.cost import price
from costsim.problem.budget import Budget
from costsim.problem.importance import ChannelScores, Importance
from costsim.problem.solution import Solution, Status
from costsim.solving.planfile import ModelRecord, PlanFile, TaskRecord, plan_file

SCORE = 0.25


def drawings(seed: int = 0) -> TaskRecord:
    """A task of seven images of two classes."""
    return TaskRecord(
        source="seven drawings",
        data=None,
        split=None,
        ways=2,
        shots=4,
        samples=7,
        seed=seed,
        images_sha256="0" * 64,
    )


def example(
    graph: LayerGraph,
    plan: UpdatePlan,
    step: TrainingStep,
    *,
    name: str = "net",
    device_name: str = "jetson-nano",
    budget: Budget | None = None,
    seed: int = 0,
    loss: Loss | None = "prototype",
) -> PlanFile:
    """The plan file of `plan` on a shipped device, every channel scored `SCORE`."""
    program = compile_program(graph, plan, step)
    device = load_device(device_name)
    cost = price(program, device)
    assert cost.on_device is not None
    importance = Importance(
        "fisher",
        tuple(
            ChannelScores(layer, axis, (SCORE,) * graph.selectable_channels(layer, axis))
            for layer in graph.layers
            for axis in ("output", "input")
            if graph.selectable_channels(layer, axis)
        ),
        samples=7,
        source="seven drawings",
    )
    scorable = [n for n in graph.layers if graph.selectable_channels(n, "output")]
    recipe = Recipe(
        optimizer=step.optimizer, micro_batch=step.samples_a_pass, loss=loss or "prototype"
    )
    adaptation = compile_adaptation(
        graph, plan, recipe, Task(7, 2), scored=Scored(tuple(scorable)), step=step
    )
    gain = SCORE * sum(len(subset.channels) for subset in plan.subsets)
    return plan_file(
        model=ModelRecord(name=name, spec=name, resolution=4, provenance="from seed 0"),
        graph=graph,
        step=step,
        budget=budget or Budget(cost.memory.peak_bytes, "peak", cost.macs.backward),
        solution=Solution("by hand", plan, cost, Status.OPTIMAL, gain, gain, 0.5),
        importance=importance,
        seed=seed,
        loss=loss,
        device=device,
        task=drawings(seed),
        recipe=recipe,
        adaptation=price_adaptation(adaptation, device),
    )


def chain_example(**options: Any) -> PlanFile:
    """Two layers of a chain of three: channels of one, the bias of the other."""
    graph = chain()
    _, second, third = graph.layers
    plan = UpdatePlan((ChannelSubset(second, "output", (0, 3)),), frozenset({second, third}))
    return example(graph, plan, TrainingStep(), **options)
