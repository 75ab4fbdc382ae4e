"""Running a training program by native kernels, in one arena.

What has no kernel is run by torch where it stands in the program, on views of the same arena. What
a step computes is that of `costsim.run.execution.executor.Executor`, up to rounding.
"""

import ctypes
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.nn import functional as F  # noqa: N812

from costsim.base.errors import InputError
from costsim.c.native.library import Library, load_library
from costsim.c.native.lowering import (
    Lowered,
    atom_of,
    left_to_pack,
    lower,
    updated_parameter,
)
from costsim.c.native.record import Record, Settings
from costsim.c.native.samples import Samples
from costsim.c.native.site import IMAGES
from costsim.c.native.weights import PackedWeights
from costsim.ir.program import Atom, Direction, Operation, TrainingProgram
from costsim.run.execution.dispatch import past_autograd
from costsim.run.execution.executor import Executor, LossNotFinite, Pass
from costsim.run.native.arena_views import ArenaViews
from costsim.run.native.buffer_shapes import Seen, of_a_weight, seen_by_torch, written_by


class NoNativeKernels(InputError):
    """This program cannot run natively on this machine; the message says why, in one line."""


@dataclass
class NativePass(Pass):
    """A pass whose buffers lie in `arena`, which goes back to `spare` when nobody needs it."""

    arena: ArenaViews = field(default_factory=lambda: ArenaViews(0))
    lowered: "_Bound | None" = None
    spare: list[ArenaViews] = field(default_factory=list)

    def __del__(self) -> None:
        self.spare.append(self.arena)


@dataclass
class _Bound:
    """A lowered program as the kernels run it: its records in one array, and where each begins."""

    lowered: Lowered
    records: Any
    begins: Sequence[int]
    spare: list[ArenaViews] = field(default_factory=list)
    pieces: dict[tuple[int, int], list["_Piece"]] = field(default_factory=dict)

    @property
    def offsets_bytes(self) -> Mapping[int, int]:
        return self.lowered.arena.offsets_bytes


@dataclass(frozen=True)
class _Piece:
    """Operations `start` to `stop` that are run by one call of the kernels, or one by torch."""

    start: int
    stop: int
    address: int
    count: int
    updated: tuple[str, ...] = ()

    @property
    def is_native(self) -> bool:
        return bool(self.address)


class NativeExecutor(Executor):
    """`Executor`, with native kernels; everything is given and asked in the same way.

    The values of a pass lie in one arena that is used again, so what `forward` and `gradients`
    return is the caller's own, and a tensor that an observer or a scorer is given holds what it
    held until the operation is over.

    Raises `NoNativeKernels` with the reason where the program cannot run so, and as `Executor`.

    Packed weights follow what autograd counts as a change, and what `Samples` sees of what it does
    not. Known limit: single values written through `.data` may go unnoticed.
    """

    gives_own_values: ClassVar[bool] = True

    def __init__(
        self, program: TrainingProgram, tensors: Mapping[str, Tensor], **options: Any
    ) -> None:
        super().__init__(program, tensors, **options)
        if reason := self._refusal():
            raise NoNativeKernels(reason)
        self.library: Library = load_library()
        self.threads: int | None = None
        """Of the kernels; None is as many as torch has. Results do not depend on it."""
        self._watched = {
            name: tensor
            for name in _names(program)
            if (tensor := tensors[name]).dtype == torch.float32
        }
        arrays = {name: tensor.detach().numpy() for name, tensor in self._watched.items()}
        self._weights = PackedWeights(self.library, arrays)
        self._states = {atom: s.data_ptr() for atom, s in self.optimizer_state.items()}
        self._joined = self._bound(joins=True)
        self._alone: _Bound | None = None
        self._left_to_pack = left_to_pack(program, self._weights)
        # Tensors made in inference mode have no versions; nor can autograd watch them.
        self._tracked = {n: t for n, t in self._watched.items() if not t.is_inference()}
        self._samples = Samples(self.library, arrays)
        self._versions = {name: tensor._version for name, tensor in self._tracked.items()}
        drafts = self._joined.lowered.drafts
        self._is_native = [draft is not None for draft in drafts]
        self._seen = seen_by_torch(program, self.selections, self._is_native)
        loss = program.operations[program.loss_position]
        self._loss_writes = written_by(program, loss, self.selections)
        self._settings = Settings(states=program.step.optimizer_states)

    def _refusal(self) -> str | None:
        """Why this cannot run natively; None if it can."""
        if self.dtype != torch.float32 or self.device.type != "cpu":
            return f"native kernels are for float32 on the CPU, not {self.dtype} on {self.device}"
        bits = self.program.step.bits
        if (bits.activations, bits.gradients) != (32, 32):
            return "native kernels are for values and gradients of 32 bits, which this step has not"
        shapes = [call.shape for call in self.graph.calls]
        if not self.channels_last and any(len(shape) == IMAGES for shape in shapes):
            return "native kernels need images with channels last, which this network does not suit"
        return None

    def _bound(self, *, joins: bool) -> _Bound:
        lowered = lower(self.program, self._weights, self._states, joins=joins)
        begins: list[int] = [0]
        flat: list[Record] = []
        for records in lowered.records():
            flat += records or ()
            begins.append(len(flat))
        return _Bound(lowered, (Record * max(1, len(flat)))(*flat), begins)

    @property
    def without_kernel(self) -> list[Operation]:
        """The operations that torch runs, in their order."""
        return self._joined.lowered.without_kernel(self.program)

    @property
    def arena_bytes(self) -> int:
        """Bytes of the arena that a pass lies in."""
        return self._joined.lowered.arena.size_bytes

    @property
    def packed_bytes(self) -> int:
        """Bytes of weights in the form that kernels read, beside the model's own."""
        return 4 * self._weights.floats

    # The parts of a step that know where values lie.

    def begin(self) -> NativePass:
        """A new step: gradients of many passes at zero, optimizer state in place."""
        if self.observer is not None and self._alone is None:
            self._alone = self._bound(joins=False)
        bound = self._joined if self.observer is None else self._alone
        assert bound is not None
        size = bound.lowered.arena.size_bytes
        arena = bound.spare.pop() if bound.spare else ArenaViews(size)
        state = NativePass({}, 0, arena, bound, bound.spare)
        for atom, states in self.optimizer_state.items():
            state.buffers[self._index[f"optimizer:{atom[0]}:{atom[1]}"]] = states
        if self.program.step.passes > 1:
            for (kind, layer), selection in self.selections.items():
                index = self._index[f"dweights:{kind}:{layer}"]
                state.buffers[index] = _view(
                    state, Seen(index, selection.shape, channels_last=False)
                ).zero_()
        return state

    def load(self, state: Pass, x: Tensor) -> None:
        """Begin a pass over `x`, samples of one pass, which become a buffer."""
        expected = self.graph[self.graph.input].shape
        if tuple(x.shape) != expected or x.dtype != self.dtype or x.device != self.device:
            super().load(state, x)  # which says what is wrong
        self._repack_changed()
        state.position = 0
        if self._input is not None:
            held = state.buffers[self._input] = _view(state, Seen(self._input, expected))
            if len(expected) == IMAGES and x.is_contiguous():
                self.library.interleave(x.data_ptr(), held.data_ptr(), expected)
            else:
                held.copy_(x.detach())

    def run_loss(self, state: Pass, labels: Any) -> Tensor:
        """The loss of the output, whose gradient becomes a buffer. Raises `LossNotFinite`."""
        self._show_output(state)
        output = self._read_output(state.buffers)
        if self.loss is F.cross_entropy and _are_classes(output, labels):
            return self._cross_entropy(state, output, labels)
        value = super().run_loss(state, labels)
        self._take_gradient(state)
        return value

    def _cross_entropy(self, state: Pass, output: Tensor, labels: Tensor) -> Tensor:
        """The loss that torch has by default, without autograd."""
        gradient = None
        for seen in self._loss_writes:
            state.buffers[seen.buffer] = _view(state, seen)
            gradient = state.buffers[seen.buffer].data_ptr()
        loss = self.library.cross_entropy(
            output.data_ptr(),
            labels.numpy(),
            output.shape[1],
            1.0 / self.program.step.passes,
            gradient,
        )
        if not math.isfinite(loss):
            raise LossNotFinite(f"the loss is {loss} at step {self.steps_done + 1}")
        return torch.tensor(loss, dtype=self.dtype)

    def forward(self, state: Pass, x: Tensor) -> Tensor:
        """Run the forward pass; the output."""
        self.load(state, x)
        self.run_forward(state)
        self._show_output(state)
        return self._read_output(state.buffers).clone()

    def backward(self, state: Pass, gradient: Tensor | None) -> None:
        """Run the backward pass from the gradient of the output, which becomes a buffer."""
        writes = self.program.operations[self.program.loss_position].writes
        if writes and gradient is not None:
            state.buffers[writes[0].buffer] = gradient
            self._take_gradient(state)
            self.run_backward(state)
        else:
            super().backward(state, gradient)

    def gradients(self, state: Pass) -> dict[Atom, Tensor]:
        """The weight gradients that wait for their update, in compact form, by atom."""
        return {
            atom: _view(state, Seen(index, selection.shape, channels_last=False)).clone()
            for atom, selection in self.selections.items()
            if (index := self._index.get(f"dweights:{atom[0]}:{atom[1]}")) is not None
            and self.program.step.keeps_gradients
        }

    def _show_output(self, state: Pass) -> None:
        """Give the loss the output, where a kernel wrote it."""
        self._show(state, self.program.loss_position)

    def _show(self, state: Pass, position: int) -> None:
        for seen in self._seen[position]:
            state.buffers[seen.buffer] = _view(state, seen)

    def _take_gradient(self, state: Pass) -> None:
        """Move the gradient of the output, which the loss has left, into the arena."""
        for seen in self._loss_writes:
            state.buffers[seen.buffer] = _view(state, seen).copy_(state.buffers[seen.buffer])

    def _run(self, state: Pass, stop: int) -> None:
        assert isinstance(state, NativePass)
        assert state.lowered is not None
        if self.observer is not None:
            self._run_observed(state, stop)
        else:
            for piece in self._pieces(state.lowered, state.position, stop):
                self._run_piece(state, piece)
        state.position = stop

    def _run_piece(self, state: NativePass, piece: "_Piece") -> None:
        if not piece.count:
            if not piece.is_native:
                self._run_by_torch(state, piece.start)
            return
        if piece.updated:
            self._note_settings()
        self.library.run(
            piece.address,
            piece.count,
            state.arena.address,
            self._settings,
            self.threads or torch.get_num_threads(),
        )
        if piece.updated:
            self._note_updates(piece.updated)

    def _note_settings(self) -> None:
        given, told = self.hyperparameters, self._settings
        told.learning_rate, told.momentum = given.learning_rate, given.momentum
        told.beta1, told.beta2, told.eps = given.beta1, given.beta2, given.eps
        told.step = self.steps_done + 1

    def _note_updates(self, names: Sequence[str]) -> None:
        """Count weights up that kernels have written to; what they packed is packed."""
        for name in names:
            tensor = self._watched[name]
            self._samples.note([name])
            if name not in self._tracked:
                self._weights.refresh([name])
                continue
            increment_version(tensor)
            if name not in self._left_to_pack:
                self._versions[name] = tensor._version

    def _run_by_torch(self, state: NativePass, position: int) -> None:
        """One operation without a kernel, on views of the arena; what it writes goes there too."""
        buffers, op = state.buffers, self.program.operations[position]
        if op.direction is Direction.LOSS:
            return
        assert state.lowered is not None
        self._show(state, position)
        with past_autograd():
            self._instructions[position][0](buffers)
            for operand in op.writes:
                offset = state.lowered.offsets_bytes.get(operand.buffer)
                if offset is None:
                    continue
                written = buffers[operand.buffer]
                view = state.arena.view(
                    offset,
                    tuple(written.shape),
                    written.dtype,
                    channels_last=not of_a_weight(self.program, op),
                )
                if view.data_ptr() != written.data_ptr():
                    view.copy_(written)
                buffers[operand.buffer] = view

    def _run_observed(self, state: NativePass, stop: int) -> None:
        """One operation after another, with the buffers that are live as tensors."""
        assert state.lowered is not None
        assert self.observer is not None
        for position in range(state.position, stop):
            op = self.program.operations[position]
            (piece,) = self._pieces(state.lowered, position, position + 1)
            self._run_piece(state, piece)
            if self._is_native[position]:
                for seen in written_by(self.program, op, self.selections):
                    state.buffers[seen.buffer] = _view(state, seen)
            self.observer(op, position, state.buffers)
            for index in self._instructions[position][1]:
                del state.buffers[index]

    def _pieces(self, bound: _Bound, start: int, stop: int) -> list["_Piece"]:
        """The operations from `start` to `stop` in as few calls as it takes."""
        key = start, stop
        if key not in bound.pieces:
            found, position = [], start
            while position < stop:
                end = position + 1
                if self._is_native[position]:
                    while end < stop and self._is_native[end]:
                        end += 1
                found.append(self._piece(bound, position, end))
                position = end
            bound.pieces[key] = found
        return bound.pieces[key]

    def _piece(self, bound: _Bound, start: int, stop: int) -> "_Piece":
        if not self._is_native[start]:
            return _Piece(start, stop, 0, 0)
        address = ctypes.addressof(bound.records) + bound.begins[start] * ctypes.sizeof(Record)
        updates = [
            op for op in self.program.operations[start:stop] if op.direction is Direction.UPDATE
        ]
        atoms = [atom_of(self.program, op) for op in updates]
        names = tuple(dict.fromkeys(updated_parameter(self.program, atom).name for atom in atoms))
        return _Piece(start, stop, address, bound.begins[stop] - bound.begins[start], names)

    # Weights that have changed.

    def _repack_changed(self) -> None:
        now = [tensor._version for tensor in self._tracked.values()]
        changed = self._samples.changed()
        if now != list(self._versions.values()):
            versions = dict(zip(self._tracked, now, strict=True))
            changed += [name for name, one in versions.items() if one != self._versions[name]]
            self._versions = versions
        if changed:
            self._weights.refresh(changed)
            self._samples.note(changed)


def _view(state: Pass, seen: Seen) -> Tensor:
    """A buffer of a pass, in its arena."""
    assert isinstance(state, NativePass)
    assert state.lowered is not None
    offset = state.lowered.offsets_bytes[seen.buffer]
    return state.arena.view(offset, seen.shape, seen.dtype, channels_last=seen.channels_last)


def _are_classes(output: Tensor, labels: object) -> bool:
    """Whether `labels` say which of the logits `[N, C]` of each sample is the right one."""
    if not isinstance(labels, Tensor) or output.ndim != 2 or labels.dtype != torch.int64:
        return False
    if tuple(labels.shape) != output.shape[:1] or not labels.is_contiguous():
        return False
    if labels.device.type != "cpu" or not output.is_contiguous() or not len(labels):
        return False
    least, most = labels.aminmax()
    return int(least) >= 0 and int(most) < output.shape[1]


def _names(program: TrainingProgram) -> list[str]:
    """The tensors of the model that its calls use."""
    used = (
        parameter
        for call in program.graph.calls
        for parameter in (call.weight, call.bias, *call.buffers)
        if parameter is not None
    )
    return list(dict.fromkeys(parameter.name for parameter in used))
