"""What choosing costs, before any training: the passes that score the inspected layers."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from costsim.device import ComputeTarget, Interval
from costsim.ir.graph import LayerGraph
from costsim.ir.operators import UpdateKind
from costsim.ir.program import (
    FISHER_WORK,
    Direction,
    ScoringWork,
    TrainingProgram,
    compile_scoring,
    memory_timeline,
)
from costsim.ir.step import TrainingStep
from costsim.pricing.cost import operation_work


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
    """Price the scoring of `layers` along `axes` on `samples` samples, a pass of `graph` at a time.

    See `costsim.ir.program.compile_scoring` for what a pass does.
    """
    program = compile_scoring(graph, step, layers, work, axes)
    return ScoringCost(
        scoring_seconds(program, target, work.rounds) * -(-samples // graph.batch),
        memory_timeline(program).peak_bytes,
    )


def scoring_seconds(program: TrainingProgram, target: ComputeTarget, rounds: int = 1) -> Interval:
    """Seconds for the samples of one pass of a scoring program, in so many rounds.

    In all rounds but one nothing is done but a forward and a backward pass.
    """
    most = [operation_work(program, op) for op in program.operations]
    plain = [
        operation_work(program, op) for op in program.operations if op.direction in _EVERY_ROUND
    ]
    return target.at(program.step.bits).total_seconds(most + plain * (rounds - 1))


_EVERY_ROUND = frozenset(
    {Direction.FORWARD, Direction.LOSS, Direction.INPUT_GRADIENT, Direction.ACCUMULATE,
     Direction.SCORE}
)  # fmt: skip
