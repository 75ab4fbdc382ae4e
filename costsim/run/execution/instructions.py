"""Operations of a training program as functions of its buffers.

Everything that does not change from step to step is looked up, decided and bound before the first:
which tensors, which kernel, which shapes, which format. At batch 1 the kernels take microseconds,
and whatever stands around them counts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.autograd.graph import increment_version

from costsim.ir.program import Atom, Direction, Operation, TrainingProgram
from costsim.run.execution.backward_pass import (
    accumulate,
    bias_gradient,
    input_gradient,
    weight_gradient,
)
from costsim.run.execution.binding import Binding, Buffers, Instruction
from costsim.run.execution.forward_pass import forward, keep
from costsim.run.execution.score import Scorer, score
from costsim.run.execution.selection import Selection
from costsim.run.execution.update import UPDATES, Hyperparameters


@dataclass(frozen=True)
class Updates:
    """What updates write, by `selections`, with which states, settings and number of the step.

    Steps are counted from 1.
    """

    selections: Mapping[Atom, Selection]
    optimizer_state: Mapping[Atom, Tensor]
    clock: Callable[[], tuple[Hyperparameters, int]]


def compile_instructions(
    bound: Binding, updates: Updates, scorer: Scorer | None
) -> tuple[Instruction, ...]:
    """One instruction for each operation of the program, in order."""
    return tuple(_instruction(bound, op, updates, scorer) for op in bound.program.operations)


def _instruction(
    bound: Binding, op: Operation, updates: Updates, scorer: Scorer | None
) -> Instruction:
    match op.direction:
        case Direction.FORWARD | Direction.RECOMPUTE:
            return forward(bound, op)
        case Direction.KEEP:
            return keep(bound, op)
        case Direction.LOSS:
            for operand in op.writes:
                bound.takes(operand.buffer, bound.program.graph[bound.program.graph.output].shape)
            return lambda _buffers: None
        case Direction.INPUT_GRADIENT:
            return input_gradient(bound, op)
        case Direction.WEIGHT_GRADIENT:
            return weight_gradient(bound, op, updates.selections)
        case Direction.BIAS_GRADIENT:
            return bias_gradient(bound, op)
        case Direction.ACCUMULATE:
            return accumulate(bound, op)
        case Direction.SCORE:
            return score(bound, op, scorer)
        case Direction.UPDATE:
            return _update(bound, op, updates)


def _update(bound: Binding, op: Operation, updates: Updates) -> Instruction:
    gradient = op.reads[0].buffer
    kind, layer = bound.program.buffers[gradient].name.split(":", 2)[1:]
    atom: Atom = (kind, layer)  # type: ignore[assignment]
    selection, weight = updates.selections[atom], updated_tensor(bound.program, bound.tensors, atom)
    states, clock = updates.optimizer_state.get(atom), updates.clock
    function, add = UPDATES[bound.program.step.optimizer], selection.adder(weight)

    def run(buffers: Buffers) -> None:
        settings, step = clock()
        function(settings, add, buffers[gradient], states, step)
        increment_version(weight)

    return run


def updated_tensor(program: TrainingProgram, tensors: Mapping[str, Tensor], atom: Atom) -> Tensor:
    """The model's tensor that an update writes to."""
    layer = program.graph.layers[atom[1]]
    parameter = layer.bias if atom[0] == "bias" else layer.weight
    assert parameter is not None
    return tensors[parameter.name]
