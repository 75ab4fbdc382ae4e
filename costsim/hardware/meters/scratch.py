"""Hidden scratch of kernels: what an operation takes besides the program's buffers.

Libraries reorder tensors into other layouts, broadcast, and compute in temporaries. How much
depends on the machine and the library's version, not on the plan, so it is measured once for each
kind of operation on given shapes and strides, alone, and remembered in a file.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from costsim.base.errors import InputError, note
from costsim.base.files import read_json, user_path, write_json
from costsim.hardware.meters.allocator import record_allocations
from costsim.hardware.results.record import Machine
from costsim.ir.program import Direction, Operand, Operation, TrainingProgram
from costsim.run.execution.executor import Executor, Pass
from costsim.run.execution.forward import Operands
from costsim.run.execution.saved_values import SAVING

SCHEMA = "costsim.scratch/1"


@dataclass(frozen=True, slots=True)
class Layout:
    """How a tensor lies in memory."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> "Layout":
        """That of `tensor`."""
        return cls(tuple(tensor.shape), tensor.stride(), tensor.dtype)

    def __str__(self) -> str:
        return f"{list(self.shape)}/{list(self.stride)} {str(self.dtype).removeprefix('torch.')}"

    def make(self) -> Tensor:
        """A tensor that lies so, of zeros."""
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype).zero_()


class LayoutObserver:
    """An observer of an executor that notes how the operands of each operation lie in memory."""

    def __init__(self, program: TrainingProgram) -> None:
        self.found: list[dict[int, Layout]] = [{} for _ in program.operations]

    def __call__(self, operation: Operation, position: int, buffers: Mapping[int, Tensor]) -> None:
        """Note the layouts of the operands."""
        for operand in (*operation.reads, *operation.writes):
            if operand.buffer in buffers:
                self.found[position][operand.buffer] = Layout.of(buffers[operand.buffer])


@dataclass
class ScratchTable:
    """Bytes of scratch by signature; what is missing is measured and, with a `path`, written."""

    path: Path | None = None
    entries: dict[str, int] = field(default_factory=dict)
    added: set[str] = field(default_factory=set)

    @classmethod
    def open(cls, path: Path) -> "ScratchTable":
        """The table in `path`; an empty one if there is none or it cannot be read."""
        return cls(path, _entries(path))

    def save(self) -> None:
        """Add what is new to the file, beside what others may have added meanwhile.

        Where the cache cannot be written (a container's home, a full disk) nothing is lost but
        the time to measure it again.
        """
        if self.path is None or not self.added:
            return
        merged = _entries(self.path) | {name: self.entries[name] for name in self.added}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, {"schema": SCHEMA, "bytes": dict(sorted(merged.items()))})
            self.added.clear()
        except (OSError, InputError) as error:  # a home that is read-only, a disk that is full
            note(f"measured sizes of scratch memory are not kept for next time: {error}")

    def look_up(
        self, executor: Executor, layouts: list[dict[int, Layout]], labels: Any
    ) -> tuple[int, ...]:
        """Scratch of every operation of `executor`, in order.

        `layouts` are what a `LayoutObserver` found, `labels` what the loss compares with. Runs
        what is missing alone, on zeros; the weights do not change, optimizer state may.
        """
        names = [
            signature(executor, operation, layouts[position], labels)
            for position, operation in enumerate(executor.program.operations)
        ]
        missing = {name: i for i, name in enumerate(names) if name not in self.entries}
        sizes = measure_scratch(executor, tuple(missing.values()), layouts, labels)
        self.entries |= dict(zip(missing, sizes, strict=True))
        self.added |= missing.keys()
        return tuple(self.entries[name] for name in names)


def _entries(path: Path) -> dict[str, int]:
    try:
        document = read_json(path)
    except InputError:
        return {}
    entries = document.get("bytes") if isinstance(document, dict) else None
    if not isinstance(entries, dict) or document.get("schema") != SCHEMA:
        return {}
    return {name: size for name, size in entries.items() if type(size) is int and size >= 0}


def table_path(machine: Machine, versions: Mapping[str, str]) -> Path:
    """The file for this machine, thread count and version of PyTorch, in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    parts = (f"torch-{versions['torch']}", f"numpy-{versions['numpy']}", machine.cpu)
    name = re.sub(r"[^\w.+-]+", "-", "_".join((*parts, f"{machine.threads}-threads")))
    return user_path(base) / "costsim" / "scratch" / f"{name}.json"


def signature(
    executor: Executor, operation: Operation, layouts: Mapping[int, Layout], labels: Any
) -> str:
    """Everything the scratch of an operation depends on, as text."""
    program = executor.program
    places = {buffer: chr(97 + i) for i, buffer in enumerate(_buffers(operation))}

    def describe(operand: Operand) -> str:
        layout = layouts.get(operand.buffer)
        shape = "" if operand.value is None else f" as {list(program.graph[operand.value].shape)}"
        channels = _channels(operand.channels, operation.channels)
        where = _parameter(executor, operand.buffer) if layout is None else str(layout)
        return f"{operand.role} {places[operand.buffer]}: {where}{shape}{channels}"

    parts = [str(operation.direction)]
    if operation.call is not None:
        parts.append(_call(executor, operation))
    if operation.direction is Direction.LOSS:
        target = Layout.of(labels) if isinstance(labels, Tensor) else type(labels).__name__
        parts.append(f"{getattr(executor.loss, '__name__', executor.loss)} {target}")
    if operation.direction is Direction.UPDATE:
        kind, layer = program.buffers[operation.reads[0].buffer].name.split(":", 2)[1:]
        updated = executor.parameter((kind, layer))  # type: ignore[arg-type]
        parts.append(f"{program.step.optimizer} {kind} {Layout.of(updated)}")
    parts.append(f"input {operation.input_index}")
    if operation.channels is not None:
        parts.append(f"channels{_channels(operation.channels, None)}")
    parts.append("reads " + ", ".join(map(describe, operation.reads)))
    parts.append("writes " + ", ".join(map(describe, operation.writes)))
    return "; ".join(parts)


def _call(executor: Executor, operation: Operation) -> str:
    """The operator of a call and how its parameters lie in memory."""
    graph = executor.program.graph
    call = graph[operation.call or ""]
    own = (call.weight, call.bias, *call.buffers)
    layouts = [Layout.of(executor.tensors[p.name]) if p else "-" for p in own]
    text = f"{call.operator} on {', '.join(map(str, layouts))}"
    operator = call.operator
    if (
        operation.channels
        and operator.weight_groups > 1
        and not operator.is_depthwise(graph.shapes(call))
    ):
        # Which groups are computed depends on which channels exactly.
        text += f" channels {list(operation.channels)}"
    return text


def _buffers(operation: Operation) -> dict[int, None]:
    return dict.fromkeys(operand.buffer for operand in (*operation.reads, *operation.writes))


def _channels(channels: tuple[int, ...] | None, within: tuple[int, ...] | None) -> str:
    """How many channels are taken, and whether by a slice or one by one."""
    if channels is None:
        return ""
    text = " " + _runs(channels)
    if within is not None and set(within) <= set(channels):
        text += " of which " + _runs(tuple(channels.index(c) for c in within))
    return text


def _runs(channels: tuple[int, ...]) -> str:
    whole = channels[-1] - channels[0] + 1 == len(channels)
    return f"{len(channels)} {'in a row' if whole else 'apart'}"


def _parameter(executor: Executor, buffer: int) -> str:
    name = executor.program.buffers[buffer].name.removeprefix("parameter:")
    return str(Layout.of(executor.tensors[name])) if name in executor.tensors else "-"


def _fill_saved(program: TrainingProgram, operation: Operation, buffers: dict[int, Tensor]) -> None:
    """Places in the windows of a max pool must lie inside the image, which zeros may not."""
    if operation.direction is not Direction.INPUT_GRADIENT or operation.call is None:
        return
    call = program.graph[operation.call]
    if call.operator.saved_places():
        x = torch.zeros(program.graph[call.inputs[0]].shape)
        saved = SAVING[call.operator](Operands((x,)))[1]
        for operand in operation.reads:
            if operand.role == "saved":
                buffers[operand.buffer].copy_(saved.view_as(buffers[operand.buffer]))


def measure_scratch(
    executor: Executor,
    positions: Sequence[int],
    layouts: Sequence[Mapping[int, Layout]],
    labels: Any,
) -> list[int]:
    """Bytes that each of some operations takes at most, alone, beyond its operands and results."""
    if not positions:
        return []
    results = {}
    with record_allocations() as recorder:
        for position in positions:
            state = Pass(_operands(executor, position, layouts[position]), position)
            before = _storages(state.buffers)
            recorder.mark("preparation")
            if executor.program.operations[position].direction is Direction.LOSS:
                executor.run_loss(state, labels)
            else:
                executor.execute(position, state.buffers)
            recorder.mark(str(position))
            made = _storages(state.buffers)
            results[position] = sum(size for where, size in made.items() if where not in before)
    most = {piece.name: piece.peak_bytes() for piece in recorder.pieces}
    return [max(0, most[str(position)] - results[position]) for position in positions]


def _operands(
    executor: Executor, position: int, layouts: Mapping[int, Layout]
) -> dict[int, Tensor]:
    """Tensors for an operation to work on: zeros, and the executor's own optimizer state."""
    program = executor.program
    operation = program.operations[position]
    own = {
        f"optimizer:{kind}:{layer}": states
        for (kind, layer), states in executor.optimizer_state.items()
    }
    read = {operand.buffer for operand in operation.reads}
    with torch.no_grad():
        buffers = {
            index: own.get(program.buffers[index].name, layout.make())
            for index, layout in layouts.items()
            if index in read
        }
        _fill_saved(program, operation, buffers)
    return buffers


def _storages(buffers: Mapping[int, Tensor]) -> dict[int, int]:
    storages = [tensor.untyped_storage() for tensor in buffers.values()]
    return {storage.data_ptr(): storage.nbytes() for storage in storages}
