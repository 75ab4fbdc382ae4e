"""Running a training program in PyTorch, operation by operation, exactly as the list says."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from costsim.base.errors import CostsimError, InputError
from costsim.base.units import counted
from costsim.ir.graph import LayerGraph
from costsim.ir.plan import UpdatePlan
from costsim.ir.program import (
    Atom,
    Category,
    Direction,
    Operation,
    TrainingProgram,
    plan_atoms,
)
from costsim.run.execution.binding import Binding, Buffers
from costsim.run.execution.checks import check_operators, check_overlap, check_tensors, common_type
from costsim.run.execution.dispatch import gradient_of, past_autograd
from costsim.run.execution.instructions import Updates, compile_instructions, updated_tensor
from costsim.run.execution.layout import input_format, memory_format, suits_channels_last
from costsim.run.execution.score import Scorer
from costsim.run.execution.selection import Selection
from costsim.run.execution.update import Hyperparameters

Loss: TypeAlias = Callable[[Tensor, Any], Tensor]
"""(output, labels) to a scalar, the mean over the samples."""

Observer: TypeAlias = Callable[[Operation, int, Mapping[int, Tensor]], None]
"""Called after each operation, before its buffers are released, with its position."""

Feed: TypeAlias = Callable[[int], tuple[Tensor, Any]]
"""Number of a pass to new images `[samples of a pass, ...]` and what its loss compares with."""

_HELD = frozenset({Category.FROZEN_WEIGHTS, Category.UPDATED_WEIGHTS, Category.OPTIMIZER})


class LossNotFinite(CostsimError):
    """The loss is NaN or infinite; nothing was updated in this pass."""


@dataclass
class Pass:
    """One forward and backward pass under way: what is live, and how far it has come."""

    buffers: Buffers = field(default_factory=dict)
    position: int = 0


class Executor:
    """Runs `program` on the model's own `tensors`, by name, and updates them in place.

    `tensors` are `costsim.models.tracing.Traced.tensors`; their dtype and device are those of the
    run. Buffers are allocated and released where the program says, in place where it says so; only
    the selected channels of the weights are ever written. `optimizer_state` holds one tensor
    `[states, *selected]` for each update. `observer` is called after each operation; `scorer` is
    given what scores are made of. Images lie in memory with `channels_last` where that is faster;
    it changes no bytes, and values only by rounding. None leaves the choice to
    `costsim.run.execution.layout.suits_channels_last`.

    A step is `step`, or in parts `begin`, for each pass `load`, `run_forward`, `run_loss` and
    `run_backward`, then `update`. With a loss of one's own, elsewhere: `forward` and `backward`.

    Raises `InputError` for a missing tensor, one of another shape, mixed dtypes or devices, and
    for two updated weights that share memory.
    """

    gives_own_values: ClassVar[bool] = False
    """Whether outputs and gradients are the caller's, and not buffers of the pass."""

    def __init__(  # noqa: PLR0913 - what an optimizer takes in PyTorch, each with a default
        self,
        program: TrainingProgram,
        tensors: Mapping[str, Tensor],
        *,
        learning_rate: float = 0.01,
        momentum: float = 0.9,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        loss: Loss = F.cross_entropy,
        observer: Observer | None = None,
        scorer: Scorer | None = None,
        channels_last: bool | None = None,
    ) -> None:
        self.program, self.graph, self.tensors = program, program.graph, tensors
        self.loss, self.observer = loss, observer
        self.hyperparameters = Hyperparameters(learning_rate, momentum, *betas, eps)
        self.steps_done = 0
        check_tensors(self.graph, tensors)
        check_operators(self.graph)
        self.dtype, self.device = common_type(tensors.values())
        suits = suits_channels_last(self.graph, self.dtype, self.device)
        self.channels_last = suits if channels_last is None else channels_last and suits
        self.selections = find_selections(self.graph, program.plan)
        check_overlap((atom[1], self.parameter(atom)) for atom in self.selections)
        self._index = {buffer.name: i for i, buffer in enumerate(program.buffers)}
        self.optimizer_state = {
            atom: torch.zeros(
                (program.step.optimizer_states, *selection.shape),
                dtype=self.dtype,
                device=self.device,
            )
            for atom, selection in self.selections.items()
            if program.step.optimizer_states
        }
        # Updates at once are part of the backward pass.
        waiting = program.step.keeps_gradients
        self._first_late_update = len(program.operations) - sum(
            waiting and op.direction is Direction.UPDATE for op in program.operations
        )
        self._input = self._index.get(self.graph.input)
        self._input_format = input_format(self.graph, self.channels_last)
        binding = Binding(program, tensors, self.channels_last, self._input_format)
        updates = Updates(
            self.selections,
            self.optimizer_state,
            lambda: (self.hyperparameters, self.steps_done + 1),
        )
        compiled = compile_instructions(binding, updates, scorer)
        self._instructions = tuple(zip(compiled, self._releases(), strict=True))
        (self._read_output,) = (
            binding.reader(read) for read in program.operations[program.loss_position].reads
        )

    def parameter(self, atom: Atom) -> Tensor:
        """The model's tensor that an update writes to."""
        return updated_tensor(self.program, self.tensors, atom)

    # A step with the loss given.

    def step(self, images: Tensor, labels: Any) -> Tensor:
        """One training step over `images` [batch, ...]: passes, then updates; the mean loss.

        `labels` go to the loss as they are, or, with micro-batches, in slices. If `labels` is a
        function it is the loss itself: of the output, returning a scalar. The images are let go
        where the program has read them for the last time; whoever calls may hold them longer.
        Raises `LossNotFinite` before anything of that pass is updated.
        """
        passes, samples = self.program.step.passes, self.program.step.samples_a_pass
        if len(images) != self.program.step.batch:
            raise InputError(
                f"{counted(len(images), 'sample')} given; the step is for {self.program.step.batch}"
            )
        losses = []
        state = self.begin()
        if passes == 1:
            self.load(state, images)
            del images
            losses.append(self._one_pass(state, labels))
        else:
            for number in range(passes):
                part = slice(number * samples, (number + 1) * samples)
                self.load(state, images[part].clone())
                losses.append(self._one_pass(state, labels if callable(labels) else labels[part]))
        self.update(state)
        return losses[0] if passes == 1 else torch.stack(losses).mean()

    def step_from(self, feed: Feed) -> Tensor:
        """One training step that takes its images when it needs them; the last pass's loss.

        Unlike in a loop that holds its batch, an image lives only as long as the program needs
        it: nobody else refers to what `feed` returns.
        """
        state = self.begin()
        loss = Tensor()
        for number in range(self.program.step.passes):
            images, labels = feed(number)
            self.load(state, images)
            del images
            loss = self._one_pass(state, labels)
        self.update(state)
        return loss

    def _one_pass(self, state: Pass, labels: Any) -> Tensor:
        self.run_forward(state)
        loss = self.run_loss(state, labels)
        self.run_backward(state)
        return loss

    # Its parts.

    def begin(self) -> Pass:
        """A new step: gradients of many passes at zero, optimizer state in place."""
        buffers: Buffers = {}
        if self.program.step.passes > 1:
            for (kind, layer), selection in self.selections.items():
                index = self._index[f"dweights:{kind}:{layer}"]
                buffers[index] = torch.zeros(selection.shape, dtype=self.dtype, device=self.device)
        for (kind, layer), states in self.optimizer_state.items():
            buffers[self._index[f"optimizer:{kind}:{layer}"]] = states
        return Pass(buffers)

    def load(self, state: Pass, x: Tensor) -> None:
        """Begin a pass over `x`, samples of one pass, which become a buffer."""
        expected = self.graph[self.graph.input].shape
        if tuple(x.shape) != expected or x.dtype != self.dtype or x.device != self.device:
            raise InputError(
                f"the input is {tuple(x.shape)}, {x.dtype}, on {x.device}; the program and its "
                f"tensors are for {expected}, {self.dtype}, on {self.device}"
            )
        state.position = 0
        if self._input is not None:
            state.buffers[self._input] = x.detach().contiguous(memory_format=self._input_format)

    def run_forward(self, state: Pass) -> None:
        """Everything up to the loss."""
        self._run(state, self.program.loss_position)

    def run_loss(self, state: Pass, labels: Any) -> Tensor:
        """The loss of the output, whose gradient becomes a buffer.

        Raises `LossNotFinite`.
        """
        writes = self.program.operations[self.program.loss_position].writes
        output = self._read_output(state.buffers).detach()
        with torch.enable_grad():
            if writes:
                output.requires_grad_()
            loss = labels(output) if callable(labels) else self.loss(output, labels)
        value = loss.detach()
        if not math.isfinite(found := value.item()):
            raise LossNotFinite(f"the loss is {found} at step {self.steps_done + 1}")
        if writes:
            # Of its own: a loss may return memory that is not the program's to write over.
            gradient = gradient_of(loss, output).clone(memory_format=self._output_format(output))
            if (passes := self.program.step.passes) > 1:
                gradient.div_(passes)
            state.buffers[writes[0].buffer] = gradient
        return value

    def run_backward(self, state: Pass) -> None:
        """Everything after the loss but the updates that wait until all passes are over."""
        self._run(state, self._first_late_update)

    def update(self, state: Pass) -> None:
        """Run what is left, the updates that wait until all passes are over, and count the step."""
        self._run(state, len(self.program.operations))
        self.steps_done += 1

    def execute(self, position: int, buffers: Buffers) -> None:
        """One operation alone, on buffers that hold what it reads; nothing is released."""
        with past_autograd():
            self._instructions[position][0](buffers)

    # A step whose loss is elsewhere.

    def forward(self, state: Pass, x: Tensor) -> Tensor:
        """Run the forward pass; the output, in a buffer that the backward pass releases."""
        self.load(state, x)
        self.run_forward(state)
        return self._read_output(state.buffers)

    def backward(self, state: Pass, gradient: Tensor | None) -> None:
        """Run the backward pass from the gradient of the output, which becomes a buffer."""
        writes = self.program.operations[self.program.loss_position].writes
        if writes:
            if gradient is None:
                raise InputError("the program needs the gradient of the output")
            state.buffers[writes[0].buffer] = gradient.clone(
                memory_format=self._output_format(gradient)
            )
        self.run_backward(state)

    def gradients(self, state: Pass) -> dict[Atom, Tensor]:
        """The weight gradients that wait for their update, in compact form, by atom."""
        found = {}
        for atom in self.selections:
            index = self._index.get(f"dweights:{atom[0]}:{atom[1]}")
            if index in state.buffers:
                found[atom] = state.buffers[index]
        return found

    def _output_format(self, like: Tensor) -> torch.memory_format:
        return memory_format(tuple(like.shape), self.channels_last)

    def _run(self, state: Pass, stop: int) -> None:
        buffers, observer = state.buffers, self.observer
        operations = self.program.operations
        with past_autograd():
            for position in range(state.position, stop):
                run, released = self._instructions[position]
                run(buffers)
                if observer is not None:
                    observer(operations[position], position, buffers)
                for index in released:
                    del buffers[index]
        state.position = stop

    def _releases(self) -> tuple[tuple[int, ...], ...]:
        """For each position, the buffers whose last operation it is."""
        released: list[list[int]] = [[] for _ in self.program.operations]
        for index, buffer in enumerate(self.program.buffers):
            if buffer.category not in _HELD:
                released[buffer.death].append(index)
        return tuple(map(tuple, released))


def find_selections(graph: LayerGraph, plan: UpdatePlan) -> dict[Atom, Selection]:
    """What a plan updates, as parts of the tensors of `graph`."""
    found: dict[Atom, Selection] = {}
    for (kind, layer), channels in plan_atoms(plan).items():
        call = graph[graph.layers[layer].calls[0]]
        if kind == "bias":
            assert call.bias is not None
            found[kind, layer] = Selection(call.bias.shape)
        else:
            assert call.weight is not None
            groups = call.operator.weight_groups
            found[kind, layer] = Selection(call.weight.shape, kind, channels, groups)
    return found
