"""One forward and backward pass of a training program as a single node of autograd."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from costsim.ir.program import Atom, Category, Direction, TrainingProgram
from costsim.run.execution.executor import Pass
from costsim.run.native import Backend
from costsim.run.native.backend import make_executor


class HeldPass:
    """What one forward pass left for its backward pass: the node's `held`, None once used.

    `versions` are of the tensors that backward reads and that are not its own.
    """

    def __init__(self, state: Pass, versions: tuple[tuple[str, Tensor, int], ...]) -> None:
        self.state, self.versions = state, versions

    @property
    def kept_bytes(self) -> int:
        """Bytes of the distinct storages held."""
        storages = [tensor.untyped_storage() for tensor in self.state.buffers.values()]
        return sum({s.data_ptr(): s.nbytes() for s in storages}.values())


class ProgramPass:
    """Forward and backward of `program` on the model's `tensors`, for inputs of one shape.

    `atoms` says in which order `backward` returns gradients, each in its selection's compact form.
    """

    def __init__(
        self,
        program: TrainingProgram,
        tensors: Mapping[str, Tensor],
        atoms: tuple[Atom, ...],
        backend: Backend = "torch",
    ) -> None:
        self.program, self._atoms = program, atoms
        self.executor = make_executor(program, tensors, backend)
        loss = program.loss_position
        self._done_after_loss = {
            i
            for i, buffer in enumerate(program.buffers)
            if buffer.death == loss and buffer.category is not Category.FROZEN_WEIGHTS
        }
        (output,) = (read.buffer for read in program.operations[loss].reads)
        self._output_is_kept = output not in self._done_after_loss
        self._keeps_input = any(b.category is Category.INPUT for b in program.kept())
        names = _read_in_backward(program)
        self._watched = tuple((name, tensors[name]) for name in names)

    def forward(self, x: Tensor) -> tuple[Tensor, HeldPass]:
        """The output, which is the caller's, and what backward needs."""
        state = self.executor.begin()
        output = self.executor.forward(state, x)
        # A tensor of its own: what backward reads must not change with it, nor hold its node.
        kept = self._output_is_kept and not self.executor.gives_own_values
        if kept or _share_memory(output, x):
            output = output.clone()
        for index in self._done_after_loss & state.buffers.keys():
            del state.buffers[index]
        state.position = self.program.loss_position + 1
        watched = [*self._watched, *([("input", x)] if self._keeps_input else [])]
        return output, HeldPass(state, tuple((n, t, _version(t)) for n, t in watched))

    def backward(self, held: HeldPass, gradient: Tensor) -> list[Tensor]:
        """The gradients of the updates, from that of the output."""
        for name, tensor, version in held.versions:
            if _version(tensor) != version:
                raise RuntimeError(
                    f"{name!r}, needed for the gradient, was modified in place after the forward "
                    f"pass: it is at version {_version(tensor)}; expected {version}"
                )
        self.executor.backward(held.state, gradient)
        gradients = self.executor.gradients(held.state)
        return [gradients[atom] for atom in self._atoms]


class ProgramFunction(torch.autograd.Function):
    """`ProgramPass` for autograd. Buffers are not saved tensors, so they can be released early.

    Everything is computed in the type of the weights, whatever autocast says.
    """

    @staticmethod
    def forward(ctx: Any, run: ProgramPass, x: Tensor, *parameters: Tensor) -> Tensor:
        """`parameters` are there to be differentiated; their values are in the dense weights."""
        with torch.autocast(x.device.type, enabled=False):
            output, held = run.forward(x)
        ctx.run, ctx.held = run, held
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the parameters; the input gets none. Possible once only."""
        held, ctx.held = ctx.held, None
        if held is None:
            raise RuntimeError(
                "the buffers of this forward pass were released by its backward pass: a sparse "
                "module goes backward once for each forward, with retain_graph or without"
            )
        with torch.autocast(gradient.device.type, enabled=False):
            gradients = ctx.run.backward(held, gradient)
        wanted = ctx.needs_input_grad[2:]
        return None, None, *(g if w else None for g, w in zip(gradients, wanted, strict=True))


def _read_in_backward(program: TrainingProgram) -> list[str]:
    """Names of the model's tensors that the backward pass reads."""
    found: dict[str, None] = {}
    for op in program.operations[program.loss_position + 1 :]:
        if op.call is None or op.direction is Direction.ACCUMULATE:
            continue
        call = program.graph[op.call]
        if op.direction in (Direction.INPUT_GRADIENT, Direction.RECOMPUTE) and call.weight:
            found[call.weight.name] = None
        if op.direction is Direction.RECOMPUTE and call.bias:
            found[call.bias.name] = None
        if op.direction is not Direction.BIAS_GRADIENT:
            found |= dict.fromkeys(buffer.name for buffer in call.buffers)
        # Constants of the model that stand where an activation could.
        names = [program.buffers[operand.buffer].name for operand in op.reads if operand.value]
        found |= {
            name.removeprefix("parameter:"): None for name in names if name.startswith("parameter:")
        }
    return list(found)


def _share_memory(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def _version(tensor: Tensor) -> int:
    # Tensors made in inference mode have none; nor can autograd watch them.
    return 0 if tensor.is_inference() else tensor._version
