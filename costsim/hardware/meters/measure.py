"""Measuring a training step: storages, allocator events, operator calls and time."""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from costsim.base.progress import Progress, silent
from costsim.hardware.meters.allocator import Piece, record_allocations
from costsim.hardware.meters.observe import StorageObserver, written_weight_bytes
from costsim.hardware.meters.scratch import LayoutObserver, ScratchTable
from costsim.hardware.results.machine import describe_machine, describe_versions
from costsim.hardware.results.record import (
    AllocatorSummary,
    MeasuredOperation,
    Measurement,
    spread_warnings,
)
from costsim.ir.program import Operation, compile_program
from costsim.ir.program.layer_of import operation_owner
from costsim.run.execution.executor import Executor, Feed
from costsim.run.execution.mac_counter import MacCounter

_MULTIPLIES = re.compile(
    r"conv|mm|mv|(?<!upsample_)(?<!upsample_bi)(?<!upsample_tri)linear|\bdot\b|attention|einsum|addr\b"
)


@dataclass(frozen=True)
class Measured:
    """A measurement, and the scratch of each operation measured apart from it, in bytes."""

    measurement: Measurement
    scratch_bytes: tuple[int, ...]


def measure(
    executor: Executor,
    feed: Feed,
    *,
    model: str,
    steps: int = 10,
    scratch: ScratchTable | None = None,
    progress: Progress | None = None,
    begun: Callable[[Measurement], None] = lambda _measurement: None,
    stepped: Callable[[float], None] = lambda _seconds: None,
) -> Measured:
    """Run real steps of `executor`, which must have no observer, and measure them.

    One step each is run to look at storages, to count operator calls and to record allocations,
    then `steps` are timed undisturbed. A step of many passes is looked at, and its allocations are
    recorded, in two of them: the others hold and give out the same as the second. `scratch`
    remembers what is measured of single operations. `begun` is told all but the seconds before any
    step is timed, `stepped` the seconds of each.
    """
    report = progress or silent
    program, few = executor.program, _few_passes(executor)
    report("running the step", 0, 0)
    layouts = LayoutObserver(program)
    with _observing(few, layouts):
        few.step_from(feed)
    storages = StorageObserver(program)
    with _observing(few, storages):
        few.step_from(feed)
    report("counting operator calls", 0, 0)
    counter = MacCounter()
    with _observing(executor, counter.observe), counter:
        executor.step_from(feed)
    report("recording allocations", 0, 0)
    start_bytes = written_weight_bytes(few) + _storage_bytes(few.optimizer_state)
    pieces = _record_step(few, feed)
    report("measuring scratch memory", 0, 0)
    table = scratch or ScratchTable()
    scratch_bytes = table.look_up(executor, layouts.found, feed(0)[1])
    table.save()
    weights = written_weight_bytes(executor)
    process = _process_bytes(pieces, start_bytes, len(program.operations))
    measurement = Measurement(
        model=model,
        machine=describe_machine(torch.get_num_threads()),
        versions=describe_versions(),
        dtype=str(executor.dtype).removeprefix("torch."),
        step_s=(),
        updated_weight_bytes=weights,
        operations=tuple(
            MeasuredOperation(
                name=operation.name,
                direction=str(operation.direction),
                owner=operation_owner(program, operation),
                live_bytes=storages.live_bytes[position] + weights,
                process_bytes=process[position],
                macs=counter.by_operation.get(operation.name, 0),
            )
            for position, operation in enumerate(program.operations)
        ),
        buffers=storages.buffers(),
        allocator=_summary(pieces, start_bytes),
        uncounted_calls=uncounted_calls(counter),
    )
    begun(measurement)
    seconds = []
    for number in range(steps):
        report("timing the step", number, steps)
        seconds.append(_step_seconds(executor, feed))
        stepped(seconds[-1])
    timed = {"step_s": tuple(seconds), "warnings": spread_warnings(tuple(seconds))}
    return Measured(measurement.model_copy(update=timed), scratch_bytes)


def _few_passes(executor: Executor) -> Executor:
    """The same step on the same tensors in two passes, where it has more."""
    program = executor.program
    if program.step.passes <= 2:
        return executor
    step = replace(program.step, batch=2 * program.step.samples_a_pass)
    given = executor.hyperparameters
    return Executor(
        compile_program(program.graph, program.plan, step),
        executor.tensors,
        learning_rate=given.learning_rate,
        momentum=given.momentum,
        loss=executor.loss,
        channels_last=executor.channels_last,
    )


def uncounted_calls(counter: MacCounter) -> tuple[str, ...]:
    """Operator calls that look as if they multiplied, but that `counter` has no rule for."""
    return tuple(sorted(call for call in counter.others if _MULTIPLIES.search(call)))


def _step_seconds(executor: Executor, feed: Feed) -> float:
    started = time.perf_counter()
    executor.step_from(feed)
    return time.perf_counter() - started


class _observing:  # noqa: N801
    """Sets the observer of an executor for a while."""

    def __init__(
        self, executor: Executor, observer: Callable[[Operation, int, Mapping[int, Tensor]], None]
    ) -> None:
        self.executor, self.observer = executor, observer

    def __enter__(self) -> None:
        self.executor.observer = self.observer

    def __exit__(self, *error: object) -> None:
        self.executor.observer = None


def _storage_bytes(tensors: Mapping[Any, Tensor]) -> int:
    storages = [tensor.untyped_storage() for tensor in tensors.values()]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _record_step(executor: Executor, feed: Feed) -> list[Piece]:
    """The allocations of one step; the pieces are named by the position of the operation."""
    with record_allocations() as recorder:
        with _observing(
            executor, lambda _operation, position, _buffers: recorder.mark(str(position))
        ):
            executor.step_from(feed)
        recorder.mark("after")
    return recorder.pieces


def _summary(pieces: list[Piece], start_bytes: int) -> AllocatorSummary:
    """What was given out and taken back over a whole step."""
    changes = [change for piece in pieces for change in piece.changes_bytes]
    return AllocatorSummary(
        events=len(changes),
        allocated_bytes=sum(change for change in changes if change > 0),
        freed_bytes=-sum(change for change in changes if change < 0),
        numpy_allocated_bytes=sum(piece.numpy_bytes for piece in pieces),
        start_bytes=start_bytes,
        net_bytes=sum(changes),
    )


def _process_bytes(pieces: list[Piece], start_bytes: int, operations: int) -> list[int]:
    """The most bytes given out during each operation, over all passes."""
    found = [0] * operations
    live = start_bytes
    for piece in pieces:
        if piece.name.isdigit():
            position = int(piece.name)
            found[position] = max(found[position], piece.peak_bytes(live))
        live += piece.net_bytes
    return found
