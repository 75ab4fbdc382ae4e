"""What a forward pass takes before and behind each cut, of one reading of the whole.

The program of a part does what the whole does there, computes anew the values that depend on no
input, and ends in a loss over its last value. So the sums of the whole's operations say at least
what the two programs of any cut take, and neither of them need be compiled.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from costsim.device import ComputeTarget
from costsim.ir.cuts import cuts
from costsim.ir.operators import elements
from costsim.ir.program import TrainingProgram
from costsim.ir.program.schedule import Direction
from costsim.pricing.cost import operation_work


@dataclass(frozen=True, slots=True)
class ForwardPart:
    """Seconds and MACs of running one part once."""

    seconds: float = 0.0
    macs: int = 0

    def __add__(self, other: "ForwardPart") -> "ForwardPart":
        return ForwardPart(self.seconds + other.seconds, self.macs + other.macs)


def forward_parts(
    program: TrainingProgram, target: ComputeTarget
) -> Mapping[str, tuple[ForwardPart, ForwardPart]]:
    """Of each cut but the input, at least what the parts before and behind it take.

    `program` is the forward pass of the whole network.
    """
    graph, bits = program.graph, program.step.bits
    timed = target.at(bits)
    inside = (graph.before(graph.output) | {graph.output}) & graph.behind(graph.input)
    of_call: dict[str, ForwardPart] = {}
    losses = []
    for operation in program.operations:
        kind, direction, macs, moved_bytes, kernel = operation_work(program, operation)
        seconds = timed.operation_seconds(kind, direction, macs, moved_bytes, kernel=kernel)
        if operation.direction is Direction.LOSS:
            losses.append((kind, direction, macs, kernel, seconds))
        elif operation.call in inside:
            spent = of_call.get(operation.call, ForwardPart())
            of_call[operation.call] = spent + ForwardPart(float(seconds), operation.macs)
    ((kind, direction, macs, kernel, last_s),) = losses

    def loss(cut: str) -> ForwardPart:
        read_bytes = (elements(graph[cut].shape) * bits.activations + 7) // 8
        return ForwardPart(
            float(timed.operation_seconds(kind, direction, macs, read_bytes, kernel=kernel))
        )

    order = [call.name for call in graph.calls if call.name in inside]
    so_far, before = ForwardPart(), dict[str, ForwardPart]()
    for name in order:
        so_far = before[name] = so_far + of_call.get(name, ForwardPart())
    left, behind = ForwardPart(float(last_s)), dict[str, ForwardPart]()
    for name in reversed(order):
        behind[name] = left
        left = left + of_call.get(name, ForwardPart())
    return {cut: (before[cut] + loss(cut), behind[cut]) for cut in cuts(graph)[1:]}
