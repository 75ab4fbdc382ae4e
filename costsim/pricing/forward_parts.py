"""What a forward pass takes before and behind each cut, of one reading of the whole.

The program of a part does what the whole does there, computes anew the values that depend on no
input, and ends in a loss over its last value. So the sums of the whole's operations say at least
what the two programs of any cut take, and neither of them need be compiled.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from costsim.device import ComputeTarget
from costsim.ir.cuts import cuts
from costsim.ir.graph import LayerGraph
from costsim.ir.operators import elements
from costsim.ir.program import Operation, TrainingProgram, memory_timeline
from costsim.pricing.cost import operation_work


@dataclass(frozen=True, slots=True)
class ForwardPart:
    """Of running one part once. `peak_bytes`: the most live at once, as far as that is told."""

    seconds: float = 0.0
    macs: int = 0
    peak_bytes: int = 0

    def __add__(self, other: "ForwardPart") -> "ForwardPart":
        """Both, one after the other."""
        return ForwardPart(
            self.seconds + other.seconds,
            self.macs + other.macs,
            max(self.peak_bytes, other.peak_bytes),
        )


def forward_parts(
    program: TrainingProgram, target: ComputeTarget
) -> Mapping[str, tuple[ForwardPart, ForwardPart]]:
    """Of each cut but the input, at least what the parts before and behind it take.

    `program` is the forward pass of the whole network.
    """
    graph, inside = program.graph, _through_cuts(program.graph)
    timed = _Timed(program, target)
    of_call: dict[str, ForwardPart] = {}
    # What depends on no input may be live in the whole and not in a part.
    live = memory_timeline(program).total_bytes * (len(inside) == len(graph.calls) - 1)
    for operation, live_bytes in zip(program.operations, live.tolist(), strict=True):
        if operation.call in inside:
            spent = ForwardPart(timed(operation), operation.macs, live_bytes)
            of_call[operation.call] = of_call.get(operation.call, ForwardPart()) + spent
    order = [call.name for call in graph.calls if call.name in inside]
    so_far, before = ForwardPart(), dict[str, ForwardPart]()
    for name in order:
        so_far = before[name] = so_far + of_call.get(name, ForwardPart())
    left, behind = ForwardPart(timed.loss(graph.output)), dict[str, ForwardPart]()
    for name in reversed(order):
        behind[name] = replace(left, peak_bytes=0)
        left = left + of_call.get(name, ForwardPart())
    return {
        cut: (before[cut] + ForwardPart(timed.loss(cut)), behind[cut]) for cut in cuts(graph)[1:]
    }


def _through_cuts(graph: LayerGraph) -> frozenset[str]:
    """The calls whose values are computed from the input, and the output from them."""
    return (graph.before(graph.output) | {graph.output}) & graph.behind(graph.input)


class _Timed:
    """Seconds of the operations of a program, and of a loss over any value."""

    def __init__(self, program: TrainingProgram, target: ComputeTarget) -> None:
        self.program, self.target = program, target.at(program.step.bits)

    def __call__(self, operation: Operation) -> float:
        kind, direction, macs, moved_bytes, kernel = operation_work(self.program, operation)
        seconds = self.target.operation_seconds(kind, direction, macs, moved_bytes, kernel=kernel)
        return float(seconds)

    def loss(self, name: str) -> float:
        """Seconds of the loss that ends a program whose output is the value of `name`."""
        last = self.program.operations[self.program.loss_position]
        kind, direction, macs, _, kernel = operation_work(self.program, last)
        bits = self.program.step.bits.activations
        read_bytes = (elements(self.program.graph[name].shape) * bits + 7) // 8
        seconds = self.target.operation_seconds(kind, direction, macs, read_bytes, kernel=kernel)
        return float(seconds)
