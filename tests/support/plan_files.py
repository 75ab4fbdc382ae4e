"""Plan files of plans chosen by hand."""

from typing import Any

from graphs import chain

from costsim.device import estimate_task, load_device
from costsim.ir.graph import LayerGraph
from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.ir.program import compile_program
from costsim.ir.step import TrainingStep
from costsim.pricing.choosing import scoring_cost
from costsim.pricing.cost import price
from costsim.problem.budget import Budget
from costsim.problem.importance import ChannelScores, Importance
from costsim.problem.solution import Solution, Status
from costsim.solving.planfile import ModelRecord, PlanFile, plan_file

SCORE = 0.25


def example(
    graph: LayerGraph,
    plan: UpdatePlan,
    step: TrainingStep,
    *,
    name: str = "net",
    device_name: str = "jetson-nano",
    budget: Budget | None = None,
    seed: int = 0,
    loss: str | None = "prototype",
) -> PlanFile:
    """The plan file of `plan` on a shipped device, every channel scored `SCORE`."""
    program = compile_program(graph, plan, step)
    device = load_device(device_name)
    target = device.target()
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
    scoring = scoring_cost(graph, step, scorable, 7, target)
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
        task=estimate_task(
            target,
            step_s=cost.on_device.latency_s,
            iterations=40,
            samples=7,
            batch=step.batch,
            selection_s=scoring.latency_s,
            selection_peak_bytes=scoring.peak_bytes,
            swap_s=cost.on_device.swap_s,
        ),
    )


def chain_example(**options: Any) -> PlanFile:
    """Two layers of a chain of three: channels of one, the bias of the other."""
    graph = chain()
    _, second, third = graph.layers
    plan = UpdatePlan((ChannelSubset(second, "output", (0, 3)),), frozenset({second, third}))
    return example(graph, plan, TrainingStep(), **options)
