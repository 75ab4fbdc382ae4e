"""Running a training program in PyTorch, operation by operation, exactly as the list says."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from costsim.errors import CostsimError, InputError
from costsim.execution.forward import CONVOLUTIONS, FORWARD, Operands
from costsim.execution.in_place import IN_PLACE
from costsim.execution.input_gradient import INPUT_GRADIENT, Backward
from costsim.execution.layout import memory_format, suits_channels_last
from costsim.execution.masks import PASSES, mask_of
from costsim.execution.saving import SAVING
from costsim.execution.selection import Channels, Selection
from costsim.execution.update import UPDATES, Hyperparameters
from costsim.execution.weight_gradient import WEIGHT_GRADIENT, WeightBackward, bias_gradient
from costsim.graph import Call, Parameter
from costsim.operators import Axis, Convolution, Shape, Shapes
from costsim.program import (
    Atom,
    Category,
    Direction,
    Operand,
    Operation,
    TrainingProgram,
    plan_atoms,
)

Buffers: TypeAlias = dict[int, Tensor]
"""The tensors that are live, by index of the buffer in the program."""

Loss: TypeAlias = Callable[[Tensor, Any], Tensor]
"""(output, labels) to a scalar, the mean over the samples."""

Observer: TypeAlias = Callable[[Operation, int, Mapping[int, Tensor]], None]
"""Called after each operation, before its buffers are released, with its position."""

_Instruction: TypeAlias = Callable[[Buffers], None]
_Reader: TypeAlias = Callable[[Buffers], Tensor]

_CONTIGUOUS = torch.contiguous_format

_MAY_ALIAS = frozenset({"permute", "slice", "expand", "scale"})
"""Kinds whose function may return its argument's own memory."""

_WEIGHTS = frozenset({Category.FROZEN_WEIGHTS, Category.UPDATED_WEIGHTS})


class LossNotFinite(CostsimError):
    """The loss is NaN or infinite; nothing was updated in this pass."""


@dataclass
class Pass:
    """One forward and backward pass under way: what is live, and how far it has come."""

    buffers: Buffers = field(default_factory=dict)
    position: int = 0


class Executor:
    """Runs `program` on the model's own `tensors`, by name, and updates them in place.

    `tensors` are `costsim.tracing.Traced.tensors`; their dtype and device are those of the run.
    Buffers are allocated and released where the program says, in place where it says so; only
    the selected channels of the weights are ever written. `optimizer_state` holds one tensor
    `[states, *selected]` for each update. `observer` is called after each operation. Images lie
    in memory with `channels_last` where that is faster; it changes no bytes, and values only by
    rounding. None leaves the choice to `costsim.execution.layout.suits_channels_last`.

    Raises `InputError` for a missing tensor, one of another shape, mixed dtypes or devices, and
    for two updated weights that share memory.
    """

    def __init__(
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
        channels_last: bool | None = None,
    ) -> None:
        self.program, self.graph, self.tensors = program, program.graph, tensors
        self.loss, self.observer = loss, observer
        self.hyperparameters = Hyperparameters(learning_rate, momentum, *betas, eps)
        self.steps_done = 0
        self._check()
        suits = suits_channels_last(self.graph, self.dtype, self.device)
        self.channels_last = suits if channels_last is None else channels_last and suits
        self.selections = self._find_selections()
        self._check_overlap()
        self._index = {buffer.name: i for i, buffer in enumerate(program.buffers)}
        self._fixed = {
            i: tensors[buffer.name.removeprefix("parameter:")]
            for i, buffer in enumerate(program.buffers)
            if buffer.category is Category.FROZEN_WEIGHTS
        }
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
        self._input_format = self._format_of_input()
        self._kept_channels = {
            op.writes[0].buffer: op.writes[0].channels or ()
            for op in program.operations
            if op.direction is Direction.KEEP
        }
        self._instructions = tuple(self._compile(op) for op in program.operations)
        self._released = self._releases()

    # What is done.

    def step(self, images: Tensor, labels: Any) -> Tensor:
        """One training step over `images` [batch, ...]: passes, then updates; the mean loss.

        `labels` go to the loss as they are, or, with micro-batches, in slices. If `labels` is a
        function it is the loss itself: of the output, returning a scalar. Raises `LossNotFinite`
        before anything of that pass is updated.
        """
        passes, samples = self.program.step.passes, self.program.step.samples_a_pass
        if len(images) != self.program.step.batch:
            raise InputError(
                f"{len(images)} samples were given; the step is for {self.program.step.batch}"
            )
        losses = []
        state = self.begin()
        for number in range(passes):
            part = slice(number * samples, (number + 1) * samples)
            self._load(state, images if passes == 1 else images[part].clone())
            self._run(state, self.program.loss_position)
            whole = passes == 1 or callable(labels)
            losses.append(self._begin_backward(state, labels if whole else labels[part]))
            self._run(state, self._first_late_update)
        self.update(state)
        return losses[0] if passes == 1 else torch.stack(losses).mean()

    def begin(self) -> Pass:
        """A new step: gradients of many passes at zero, optimiser state in place."""
        buffers: Buffers = {}
        for (kind, layer), selection in self.selections.items():
            if self.program.step.passes > 1:
                index = self._index[f"dweights:{kind}:{layer}"]
                buffers[index] = self._zeros(selection.shape)
        for (kind, layer), states in self.optimizer_state.items():
            buffers[self._index[f"optimizer:{kind}:{layer}"]] = states
        return Pass(buffers)

    def forward(self, state: Pass, x: Tensor) -> Tensor:
        """Run the forward pass; the output, in a buffer that the backward pass releases."""
        self._load(state, x)
        self._run(state, self.program.loss_position)
        return self._output(state)

    def backward(self, state: Pass, gradient: Tensor | None) -> None:
        """Run the backward pass from the gradient of the output, which becomes a buffer."""
        writes = self.program.operations[self.program.loss_position].writes
        if writes:
            if gradient is None:
                raise InputError("the program needs the gradient of the output")
            state.buffers[writes[0].buffer] = gradient.clone(
                memory_format=self._format(tuple(gradient.shape))
            )
        self._run(state, self._first_late_update)

    def gradients(self, state: Pass) -> dict[Atom, Tensor]:
        """The weight gradients that wait for their update, in compact form, by atom."""
        found = {}
        for atom in self.selections:
            index = self._index.get(f"dweights:{atom[0]}:{atom[1]}")
            if index in state.buffers:
                found[atom] = state.buffers[index]
        return found

    def update(self, state: Pass) -> None:
        """Run what is left, the updates that wait until all passes are over, and count the step."""
        self._run(state, len(self.program.operations))
        self.steps_done += 1

    def _load(self, state: Pass, x: Tensor) -> None:
        expected = self.graph[self.graph.input].shape
        if tuple(x.shape) != expected or x.dtype != self.dtype or x.device != self.device:
            raise InputError(
                f"the input is {tuple(x.shape)}, {x.dtype}, on {x.device}; the program and its "
                f"tensors are for {expected}, {self.dtype}, on {self.device}"
            )
        state.position = 0
        if self._input is not None:
            state.buffers[self._input] = x.contiguous(memory_format=self._input_format)

    def _output(self, state: Pass) -> Tensor:
        loss = self.program.operations[self.program.loss_position]
        return self._reader(loss.reads[0])(state.buffers)

    def _begin_backward(self, state: Pass, labels: Any) -> Tensor:
        """The loss of the output, whose gradient becomes a buffer."""
        writes = self.program.operations[self.program.loss_position].writes
        output = self._output(state).detach()
        with torch.enable_grad():
            if writes:
                output.requires_grad_()
            loss = labels(output) if callable(labels) else self.loss(output, labels)
        value = loss.detach()
        if not bool(torch.isfinite(value)):
            raise LossNotFinite(f"the loss is {float(value)} at step {self.steps_done + 1}")
        if writes:
            (gradient,) = torch.autograd.grad(loss, output)
            # Of its own: a loss may return memory that is not the program's to write over.
            scaled = torch.empty_like(
                output, memory_format=self._format(tuple(output.shape)), requires_grad=False
            )
            torch.div(gradient, self.program.step.passes, out=scaled)
            state.buffers[writes[0].buffer] = scaled
        return value

    @torch.no_grad()
    def _run(self, state: Pass, stop: int) -> None:
        buffers, observer = state.buffers, self.observer
        for position in range(state.position, stop):
            self._instructions[position](buffers)
            if observer is not None:
                observer(self.program.operations[position], position, buffers)
            for index in self._released[position]:
                del buffers[index]
        state.position = stop

    # Before the first step.

    def _check(self) -> None:
        for parameter in self.graph.parameters:
            if parameter.name not in self.tensors:
                raise InputError(f"tensor {parameter.name!r} of the layer graph is missing")
            shape = tuple(self.tensors[parameter.name].shape)
            if shape != parameter.shape:
                raise InputError(
                    f"tensor {parameter.name!r} is {shape}; the program is for {parameter.shape}"
                )
        found = {(t.dtype, t.device) for t in self.tensors.values() if t.is_floating_point()}
        if len(found) > 1:
            raise InputError(
                "the model's tensors differ in dtype or device: "
                + ", ".join(sorted(f"{dtype} on {device}" for dtype, device in found))
            )
        self.dtype, self.device = found.pop() if found else (torch.float32, torch.device("cpu"))
        for call in self.graph.calls:
            if call.operator.kind == "max_pool" and prod(call.operator.kernel) > 256:  # type: ignore[attr-defined]
                raise InputError(f"call {call.name!r}: a window of more than 256 elements")

    def _find_selections(self) -> dict[Atom, Selection]:
        found: dict[Atom, Selection] = {}
        for (kind, layer), channels in plan_atoms(self.program.plan).items():
            call = self.graph[self.graph.layers[layer].calls[0]]
            if kind == "bias":
                assert call.bias is not None
                found[kind, layer] = Selection(call.bias.shape)
            else:
                assert call.weight is not None
                groups = call.operator.groups if isinstance(call.operator, Convolution) else 1
                found[kind, layer] = Selection(call.weight.shape, kind, channels, groups)
        return found

    def parameter(self, atom: Atom) -> Tensor:
        """The model's tensor that an update writes to."""
        layer = self.graph.layers[atom[1]]
        parameter = layer.bias if atom[0] == "bias" else layer.weight
        assert parameter is not None
        return self.tensors[parameter.name]

    def _check_overlap(self) -> None:
        """Two names for the same memory: an update of one would be wrong for the other."""
        spans: list[tuple[int, int, str]] = []
        for atom in self.selections:
            tensor = self.parameter(atom)
            start = tensor.data_ptr()
            reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
            spans.append((start, start + (reach + 1) * tensor.element_size(), atom[1]))
        spans.sort()
        for (_, end, first), (start, _, second) in pairwise(spans):
            if start < end:
                raise InputError(
                    f"layers {first!r} and {second!r} share memory; update at most one of them"
                )

    def _releases(self) -> tuple[tuple[int, ...], ...]:
        """For each position, the buffers whose last operation it is."""
        released: list[list[int]] = [[] for _ in self.program.operations]
        for index, buffer in enumerate(self.program.buffers):
            if buffer.category not in _WEIGHTS and buffer.category is not Category.OPTIMIZER:
                released[buffer.death].append(index)
        return tuple(map(tuple, released))

    def _format(self, shape: Shape) -> torch.memory_format:
        return memory_format(shape, self.channels_last)

    def _format_of_input(self) -> torch.memory_format:
        """As it comes, if only convolutions read it: turning it round would take a copy of it."""
        readers = (call for call in self.graph.calls if self.graph.input in call.inputs)
        if all(call.operator.kind == "convolution" for call in readers):
            return _CONTIGUOUS
        return self._format(self.graph[self.graph.input].shape)

    def _zeros(self, shape: Shape) -> Tensor:
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    # One function for each operation, with everything looked up that does not change.

    def _compile(self, op: Operation) -> _Instruction:
        match op.direction:
            case Direction.FORWARD | Direction.RECOMPUTE:
                return self._forward(op)
            case Direction.KEEP:
                return self._keep(op)
            case Direction.LOSS:
                return lambda buffers: None
            case Direction.INPUT_GRADIENT:
                return self._input_gradient(op)
            case Direction.WEIGHT_GRADIENT:
                return self._weight_gradient(op)
            case Direction.BIAS_GRADIENT:
                return self._bias_gradient(op)
            case Direction.ACCUMULATE:
                return self._accumulate(op)
            case Direction.UPDATE:
                return self._update(op)

    def _reader(self, operand: Operand) -> _Reader:
        """Looks an operand up, in the shape of the value that is read."""
        index = operand.buffer
        if index in self._fixed:
            tensor = self._fixed[index]
            return lambda buffers: tensor
        if operand.value is None:
            return lambda buffers: buffers[index]
        shape = self.graph[operand.value].shape

        def read(buffers: Buffers) -> Tensor:
            found = buffers[index]
            return found if found.shape == shape else found.view(shape)

        return read

    def _own(self, call: Call) -> Operands:
        def tensor(parameter: Parameter | None) -> Tensor | None:
            return None if parameter is None else self.tensors[parameter.name]

        extra = tuple(self.tensors[buffer.name] for buffer in call.buffers)
        return Operands((), tensor(call.weight), tensor(call.bias), extra)

    def _convolution(self, op: Operation) -> _Instruction:
        """The most frequent forward call, with as little around it as can be."""
        call = self._call(op)
        o, own, read, out = call.operator, self._own(call), self._reader(op.reads[0]), op.writes[0]
        assert isinstance(o, Convolution)
        convolve, form, index = CONVOLUTIONS[len(o.stride)], self._format(call.shape), out.buffer
        weight, bias = own.weight, own.bias
        settings = (tuple(o.stride), tuple(o.padding), tuple(o.dilation), o.groups)

        def run(buffers: Buffers) -> None:
            x = read(buffers).contiguous(memory_format=form)
            output = convolve(x, weight, bias, *settings)
            buffers[index] = output.contiguous(memory_format=form)

        return run

    def _forward(self, op: Operation) -> _Instruction:
        call = self._call(op)
        if isinstance(call.operator, Convolution):
            return self._convolution(op)
        o, own, kind = call.operator, self._own(call), call.operator.kind
        readers = [self._reader(operand) for operand in op.reads[: len(call.inputs)]]
        out = op.writes[0].buffer
        saved = op.writes[1].buffer if len(op.writes) > 1 else None
        passes = PASSES.get(kind) if saved is not None else None
        first = readers[0] if len(readers) == 1 else None
        form = self._format(call.shape)
        over = next((i for i in reversed(o.overwritable_inputs) if op.reads[i].buffer == out), None)

        def operands(buffers: Buffers) -> Operands:
            inputs = (first(buffers),) if first else tuple([read(buffers) for read in readers])
            t = Operands(inputs, own.weight, own.bias, own.buffers)
            if passes is not None and saved is not None:
                buffers[saved] = mask_of(passes, o, t.x)
            return t

        if over is not None:
            position, overwrite = over, IN_PLACE[kind]

            def run(buffers: Buffers) -> None:
                t = operands(buffers)
                overwrite(o, t, position)
                buffers[out] = t.inputs[position]

        elif saved is not None and passes is None:
            index, save = saved, SAVING[kind]

            def run(buffers: Buffers) -> None:
                output, buffers[index] = save(o, operands(buffers))
                buffers[out] = output.contiguous(memory_format=form)

        else:
            compute, aliasing = FORWARD[kind], kind in _MAY_ALIAS

            def run(buffers: Buffers) -> None:
                output = compute(o, operands(buffers))
                if aliasing:
                    output = output.clone(memory_format=form)
                buffers[out] = output.contiguous(memory_format=form)

        return run

    def _call(self, op: Operation) -> Call:
        assert op.call is not None
        return self.graph[op.call]

    def _keep(self, op: Operation) -> _Instruction:
        read, kept, channels = self._reader(op.reads[0]), op.writes[0].buffer, op.channels
        channels = op.writes[0].channels
        assert channels is not None
        dimension = self._kept_dimension(kept)
        index = torch.tensor(channels, device=self.device)
        assert op.reads[0].value is not None
        form = self._format(self.graph[op.reads[0].value].shape)

        def run(buffers: Buffers) -> None:
            part = read(buffers).index_select(dimension, index)
            buffers[kept] = part.contiguous(memory_format=form)

        return run

    def _kept_dimension(self, kept: int) -> int:
        """The dimension along which channels of a value are kept: that of all who read them."""
        found = set()
        for op in self.program.operations:
            if op.direction is Direction.WEIGHT_GRADIENT:
                call = self._call(op)
                if any(operand.buffer == kept for operand in op.reads):
                    found.add(call.operator.channel_axis(self.graph.shapes(call), "input"))
        if len(found) != 1:
            raise InputError(
                f"{self.program.buffers[kept].name}: its channels are read along different "
                "dimensions, which is not supported"
            )
        return found.pop()

    def _input_gradient(self, op: Operation) -> _Instruction:
        call = self._call(op)
        o, own, shapes, index = call.operator, self._own(call), self._shapes(call), op.input_index
        dy, out = self._reader(op.reads[0]), op.writes[0].buffer
        in_place = op.reads[0].buffer == out
        form = self._format(shapes.inputs[index])
        function = INPUT_GRADIENT[o.kind]
        kept = {
            int(operand.role.split()[-1]): self._reader(operand)
            for operand in op.reads
            if operand.role.startswith("kept input")
        }
        output = self._reader_of(op, "kept output")
        saved = self._reader_of(op, "saved")
        into = self._reader(op.reads[-1]) if op.reads[-1].role == "into" else None

        def run(buffers: Buffers) -> None:
            t = Backward(
                dy(buffers),
                shapes,
                index,
                in_place,
                {i: read(buffers) for i, read in kept.items()},
                output(buffers),
                saved(buffers),
                None if into is None else into(buffers),
                own,
            )
            buffers[out] = function(o, t).contiguous(memory_format=form)

        return run

    def _shapes(self, call: Call) -> Shapes:
        return self.graph.shapes(call)

    def _reader_of(self, op: Operation, role: str) -> _Reader:
        """Looks up the operand in a role; an empty tensor if there is none."""
        nothing = torch.empty(0)
        found = (self._reader(operand) for operand in op.reads if operand.role.startswith(role))
        return next(found, lambda buffers: nothing)

    def _weight_gradient(self, op: Operation) -> _Instruction:
        call = self._call(op)
        assert call.layer is not None
        axis = self.program.plan.by_layer[call.layer].axis
        selection = self.selections[axis, call.layer]
        o, own, shapes = call.operator, self._own(call), self._shapes(call)
        dy, out = self._reader(op.reads[0]), op.writes[0].buffer
        x = self._input_reader(op, call, axis)
        saved = self._reader_of(op, "saved")
        function = WEIGHT_GRADIENT[o.kind]

        def run(buffers: Buffers) -> None:
            t = WeightBackward(dy(buffers), x(buffers), saved(buffers), shapes, selection, own)
            buffers[out] = function(o, t).contiguous()

        return run

    def _input_reader(self, op: Operation, call: Call, axis: Axis) -> _Reader:
        """The call's input as its weight gradient needs it: cut to the channels or whole."""
        operand = next(r for r in op.reads if r.role == "kept input 0")
        needs = call.operator.weight_gradient_needs(self._shapes(call), axis)
        whole = self._reader(operand)
        if not any(need.source == "input" and need.selected_only for need in needs):
            return whole
        dimension = call.operator.channel_axis(self._shapes(call), "input")
        assert op.channels is not None
        channels = Channels(op.channels)
        if operand.buffer not in self._kept_channels:
            return lambda buffers: channels.of(whole(buffers), dimension)
        union = self._kept_channels[operand.buffer]
        places = Channels([union.index(channel) for channel in op.channels])
        return lambda buffers: places.of(buffers[operand.buffer], dimension)

    def _bias_gradient(self, op: Operation) -> _Instruction:
        call = self._call(op)
        dy, out = self._reader(op.reads[0]), op.writes[0].buffer
        bias, kind = self._own(call).bias, call.operator.kind
        assert bias is not None

        def run(buffers: Buffers) -> None:
            buffers[out] = bias_gradient(dy(buffers), bias, kind)

        return run

    def _accumulate(self, op: Operation) -> _Instruction:
        target, (left, right) = op.writes[0].buffer, op.reads
        a, b = self._reader(left), self._reader(right)

        def run(buffers: Buffers) -> None:
            if target == left.buffer:
                buffers[target] = a(buffers).add_(b(buffers))
            elif target == right.buffer:
                buffers[target] = b(buffers).add_(a(buffers))
            else:
                buffers[target] = a(buffers) + b(buffers)

        return run

    def _update(self, op: Operation) -> _Instruction:
        gradient = op.reads[0].buffer
        kind, layer = self.program.buffers[gradient].name.split(":", 2)[1:]
        atom: Atom = (kind, layer)  # type: ignore[assignment]
        selection, weight = self.selections[atom], self.parameter(atom)
        states = self.optimizer_state.get(atom)
        function = UPDATES[self.program.step.optimizer]

        def run(buffers: Buffers) -> None:
            step = self.steps_done + 1
            function(self.hyperparameters, selection, weight, buffers[gradient], states, step)

        return run
