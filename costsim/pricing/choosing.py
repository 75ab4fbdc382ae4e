"""What choosing costs, before any training: the passes that score the inspected layers."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from costsim.device import ComputeTarget, Interval
from costsim.ir.graph import LayerGraph
from costsim.ir.operators import UpdateKind
from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.ir.program import Category, Direction, Operation, TrainingProgram, compile_program
from costsim.ir.step import TrainingStep
from costsim.pricing.cost import operation_work


@dataclass(frozen=True, slots=True)
class ScoringWork:
    """What a criterion does with every sample: so many `rounds` of a forward and a backward pass.

    `weight_gradients`: one of them has the gradients of the inspected layers' weights, which stay
    until the scores are there, and looks at nothing that these layers write; `again`: in one the
    inspected layers run a second time, with other weights.
    """

    rounds: int = 1
    weight_gradients: bool = False
    again: bool = False


FISHER_WORK = ScoringWork()
"""One pass, whose input gradients are enough."""


@dataclass(frozen=True, slots=True)
class ScoringCost:
    """Seconds of all passes, and the most bytes live at any one moment of them.

    As everywhere, frozen weights are not among the bytes; here all weights are frozen.
    """

    latency_s: Interval
    peak_bytes: int


def scoring_cost(
    graph: LayerGraph,
    step: TrainingStep,
    layers: Sequence[str],
    samples: int,
    target: ComputeTarget,
    work: ScoringWork = FISHER_WORK,
    axes: Collection[UpdateKind] = frozenset({"output"}),
) -> ScoringCost:
    """Price the scoring of `layers` along `axes` on `samples` samples, a pass of `step` at a time.

    The passes are those of the step that updates the inspected layers. A pass runs its forward and
    its input gradients, and reads each inspected value and its gradient once; what is kept is what
    the criterion looks at, not what an update would.
    """
    if set(axes) == {"bias"}:  # their gradients are sums of those that are there anyway
        work = ScoringWork(work.rounds)
    whole = work.weight_gradients or "input" in axes
    counts = {layer: graph.selectable_channels(layer, "output") for layer in layers}
    plan = UpdatePlan(
        tuple(
            ChannelSubset(layer, "output", tuple(range(count if whole else 1)))
            for layer, count in counts.items()
            if count
        ),
        frozenset(layer for layer, count in counts.items() if not count),  # its weight is frozen
    )
    program = compile_program(graph, plan, step)
    return ScoringCost(
        _seconds(program, target, layers, work) * -(-samples // graph.batch),
        _peak_bytes(program, work, axes),
    )


_Work: TypeAlias = tuple[str, str, float, float] | tuple[str, str, float, float, str]
"""Of an operation, as `ComputeTarget.total_seconds` takes it."""


def _seconds(
    program: TrainingProgram, target: ComputeTarget, layers: Collection[str], work: ScoringWork
) -> Interval:
    """Seconds for the samples of one pass."""
    once: list[_Work] = []
    extra: list[_Work] = []
    for op in program.operations:
        match op.direction:
            case Direction.FORWARD:
                once.append(operation_work(program, op))
                if op.call and program.graph[op.call].layer in layers:
                    once.append(("elementwise", "forward", 0, 2 * op.writes[0].bytes))
                    if work.again:
                        extra.append(operation_work(program, op))
            case Direction.LOSS | Direction.INPUT_GRADIENT | Direction.ACCUMULATE:
                once.append(operation_work(program, op))
            case Direction.WEIGHT_GRADIENT if work.weight_gradients:
                extra.append(operation_work(program, op))
    return target.at(program.step.bits).total_seconds(once * work.rounds + extra)


_WEIGHTS = (
    Category.FROZEN_WEIGHTS,
    Category.UPDATED_WEIGHTS,
    Category.OPTIMIZER,
    Category.WEIGHT_GRADIENT,
)


def _peak_bytes(program: TrainingProgram, work: ScoringWork, axes: Collection[UpdateKind]) -> int:
    """The lifetimes of `program` with what is scored in the place of what is updated.

    A layer is scored where its weight gradient would be computed. Of what that reads the gradient
    of the layer's output stays, what the layer has read only if the criterion looks at it; instead
    the layer's output must still be there, if it looks at that.
    """
    reads_inputs = work.weight_gradients or "input" in axes
    reads_outputs = not work.weight_gradients and "output" in axes
    last: dict[int, int] = {}
    written: dict[int, list[int]] = {}
    output: dict[str, int] = {}
    change = np.zeros(len(program.operations) + 1, dtype=np.int64)

    def hold(size: int, first: int, until: int) -> None:
        change[first] += size
        change[until + 1] -= size

    for position, op in enumerate(program.operations):
        for buffer in _looks_at(op, reads_inputs):
            last[buffer] = position
        for operand in op.writes:
            written.setdefault(operand.buffer, []).append(position)
        if op.direction in (Direction.FORWARD, Direction.RECOMPUTE) and op.call:
            output[op.call] = position
        elif op.direction is Direction.WEIGHT_GRADIENT and op.call:
            value = program.operations[output[op.call]].writes[0]
            if work.again:
                hold(value.bytes, position, position)
            if reads_outputs:
                over = [p for p in written[value.buffer] if p > output[op.call]]
                if over:  # written over in place: a copy
                    hold(value.bytes, over[0], position)
                else:
                    last[value.buffer] = position
    for index, until in last.items():
        held = program.buffers[index]
        if held.category not in _WEIGHTS:
            hold(held.bytes, held.birth, until)
    gradients = sum(b.bytes for b in program.buffers if b.category is Category.WEIGHT_GRADIENT)
    return int(np.cumsum(change).max()) + gradients * work.weight_gradients


def _looks_at(op: Operation, reads_inputs: bool) -> list[int]:
    """The buffers that scoring reads or writes in the place of `op`."""
    if op.direction is Direction.UPDATE or (op.direction is Direction.KEEP and not reads_inputs):
        return []
    if op.direction in (Direction.WEIGHT_GRADIENT, Direction.BIAS_GRADIENT):
        return [o.buffer for o in op.reads if reads_inputs or o.role == "gradient"]
    return [o.buffer for o in (*op.reads, *op.writes)]
