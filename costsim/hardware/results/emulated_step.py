"""A training step on an emulated microcontroller as a measurement.

Bytes and multiply-accumulates are of what really happened in the emulated memory and core; seconds
are a model of the core, and labelled as emulated.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from costsim import __version__
from costsim.c.emission.options import EmissionOptions
from costsim.c.emission.support import is_narrow
from costsim.c.emulation.build import Firmware
from costsim.c.emulation.latency import Cycles
from costsim.c.emulation.liveness import AccessBits, Liveness, liveness
from costsim.c.emulation.trial import Observed
from costsim.device import DeviceSpec
from costsim.device.interval import Interval
from costsim.hardware.results.record import (
    AllocatorSummary,
    Machine,
    MeasuredBuffer,
    MeasuredOperation,
    Measurement,
)
from costsim.ir.program import Category, TrainingProgram, plan_arena
from costsim.ir.program.layer_of import buffer_owner, operation_owner
from costsim.ir.program.program import KEPT_CATEGORIES
from costsim.pricing.cost import operation_work


@dataclass(frozen=True)
class LayerWork:
    """What one layer (or call without one; None: all that belongs to none) took of a step.

    `macs` are those executed, over all passes; `latency_s` emulated, `predicted_s` the device
    file's estimate of the same operations.
    """

    owner: str | None
    macs: int
    instructions: int
    latency_s: Interval
    predicted_s: float


@dataclass(frozen=True, eq=False)
class EmulatedStep:
    """One observed step of `program`, emitted with `options`, on a core of `device`."""

    program: TrainingProgram
    device: DeviceSpec
    firmware: Firmware
    observed: Observed
    options: EmissionOptions = field(default_factory=EmissionOptions)

    @property
    def order(self) -> list[int]:
        """Operations as they run: passes several times, updates that wait once, others' before."""
        program = self.program
        again = [-1, *(i for i, op in enumerate(program.operations) if program.times(op) > 1)]
        once = [-1, *range(len(program.operations))]
        return [*again, *once] if program.step.passes > 1 else once

    @cached_property
    def bits(self) -> AccessBits:
        """What each operation touched."""
        observed = self.observed
        return AccessBits.of(observed.touched, len(self.program.operations), observed.arena_bytes)

    @cached_property
    def liveness(self) -> Liveness:
        """What was alive when."""
        return liveness(self.bits, self.order, kept_at=self.program.loss_position)

    @cached_property
    def planned_spans(self) -> Mapping[int, tuple[int, int]]:
        """First byte and end of each buffer in the arena."""
        offsets = plan_arena(self.program).offsets_bytes
        return {
            i: (offset, offset + self.program.buffers[i].bytes) for i, offset in offsets.items()
        }

    @cached_property
    def touched_of(self) -> Mapping[int, int]:
        """Bytes of each buffer that its own operations touched."""
        users: dict[int, set[int]] = defaultdict(set)
        for position, op in enumerate(self.program.operations):
            for operand in (*op.reads, *op.writes):
                users[operand.buffer].add(position + 1)
        input_call = self.program.graph.input
        touched = self.bits.touched
        found = {}
        for index, (first, end) in self.planned_spans.items():
            rows = sorted(users[index])
            if self.program.buffers[index].name == input_call:
                rows = [0, *rows]
            found[index] = int(touched[rows, first:end].any(axis=0).sum())
        return found

    def strays(self) -> Iterator[tuple[str, int]]:
        """Operations that wrote beside what they write, or read beside what they use: how much.

        Updated weights may be read by whoever reads the parameter they are of.
        """
        weights = [
            span
            for index, span in self.planned_spans.items()
            if self.program.buffers[index].category is Category.UPDATED_WEIGHTS
        ]
        for position, op in enumerate(self.program.operations):
            writes = [self.planned_spans.get(one.buffer, (0, 0)) for one in op.writes]
            reads = [self.planned_spans.get(one.buffer, (0, 0)) for one in op.reads]
            outside = self._outside(self.bits.written[position + 1], writes)
            outside += self._outside(self.bits.read[position + 1], [*reads, *writes, *weights])
            if outside:
                yield op.name, outside

    def _outside(self, touched: NDArray[np.bool_], spans: Sequence[tuple[int, int]]) -> int:
        allowed = np.zeros(self.observed.arena_bytes, dtype=np.bool_)
        for first, end in spans:
            allowed[first:end] = True
        return int((touched & ~allowed).sum())

    @property
    def planned_bytes(self) -> int:
        """Bytes of the arena that some buffer is planned at."""
        used = np.zeros(self.observed.arena_bytes, dtype=np.bool_)
        for first, end in self.planned_spans.values():
            used[first:end] = True
        return int(used.sum())

    @property
    def touched_bytes(self) -> int:
        """Bytes of the arena that were touched."""
        return int(self.bits.touched.any(axis=0).sum())

    @property
    def cycles(self) -> Cycles:
        """Cycles of the whole step."""
        total = Cycles(0, 0, 0)
        for work in self.observed.work.values():
            total += work.cycles
        return total

    @property
    def latency_s(self) -> Interval:
        """Emulated seconds of the step: a model of the core, not a measurement."""
        return self.cycles.seconds(self.device.target())

    @cached_property
    def by_layer(self) -> tuple[LayerWork, ...]:
        """Every layer's part, in the order of the model; what belongs to none is last."""
        program, target = self.program, self.device.target()
        parts: dict[str | None, list[int]] = defaultdict(list)
        for position, op in enumerate(program.operations):
            parts[operation_owner(program, op)].append(position)
        parts[None].append(-1)
        order = {call.layer or call.name: i for i, call in enumerate(program.graph.calls)}
        found = []
        for owner in sorted(parts, key=lambda name: order.get(name or "", len(order))):
            cycles, macs, instructions = Cycles(0, 0, 0), 0, 0
            for position in parts[owner]:
                if (work := self.observed.work.get(position)) is not None:
                    cycles, instructions = cycles + work.cycles, instructions + work.instructions
                    macs += work.macs if position >= 0 and program.operations[position].macs else 0
            estimate = target.at(program.step.bits).total_seconds(
                operation_work(program, op)
                for op in (program.operations[i] for i in parts[owner] if i >= 0)
                for _ in range(program.times(op))
            )
            found.append(
                LayerWork(owner, macs, instructions, cycles.seconds(target), estimate.value)
            )
        return tuple(found)

    def executed_macs(self, position: int) -> int:
        """Multiply-accumulates that an operation executed, over all passes."""
        work = self.observed.work.get(position)
        return 0 if work is None else work.macs

    @property
    def other_macs(self) -> int:
        """Fused multiply-adds of work that is not counted in MACs: the loss, updates."""
        return sum(
            self.executed_macs(i) for i, op in enumerate(self.program.operations) if not op.macs
        )

    # As the records of this library.

    def measurement(self, model: str) -> Measurement:
        """All of it as a measurement without seconds."""
        program, observed = self.program, self.observed
        loss, alive = program.loss_position, self.liveness.after_loss
        buffers = tuple(
            MeasuredBuffer(
                name=buffer.name,
                category=str(buffer.category),
                owner=buffer_owner(program, buffer.name),
                bytes=self.touched_of[index],
                kept=buffer.category in KEPT_CATEGORIES
                and buffer.birth <= loss < buffer.death
                and bool(alive[first:end].any()),
            )
            for index, (first, end) in self.planned_spans.items()
            for buffer in (program.buffers[index],)
        )
        around = observed.data_bytes + observed.stack_bytes
        operations = tuple(
            MeasuredOperation(
                name=op.name,
                direction=str(op.direction),
                owner=operation_owner(program, op),
                live_bytes=int(self.liveness.live_bytes[position]),
                process_bytes=observed.arena_end_bytes + around,
                macs=self.executed_macs(position) if op.macs else 0,
            )
            for position, op in enumerate(program.operations)
        )
        weights = sum(
            self.touched_of[i]
            for i in self.planned_spans
            if program.buffers[i].category is Category.UPDATED_WEIGHTS
        )
        return Measurement(
            model=model,
            machine=emulated_machine(self.firmware),
            versions={
                "costsim": __version__,
                "unicorn": version("unicorn"),
                "compiler": self.firmware.compiler.title,
            },
            dtype="int8" if is_narrow(program.step.bits) else "float32",
            step_s=(),
            updated_weight_bytes=weights,
            operations=operations,
            buffers=buffers,
            allocator=AllocatorSummary.of_an_arena(),
        )

    def counts(self) -> dict[str, float]:
        """Numbers of the target's own."""
        observed, cycles, latency = self.observed, self.cycles, self.latency_s
        return {
            "instructions": sum(work.instructions for work in observed.work.values()),
            "multiply_accumulates": sum(work.macs for work in observed.work.values()),
            "arena_bytes": observed.arena_end_bytes,
            "stack_bytes": observed.stack_bytes,
            "data_bytes": observed.data_bytes,
            "flash_bytes": observed.flash_bytes,
            "cycles_ideal": cycles.ideal,
            "cycles": cycles.measured,
            "emulated_step_s": latency.value,
            "emulated_step_low_s": latency.low,
            "emulated_step_high_s": latency.high,
        }


def emulated_machine(firmware: Firmware) -> Machine:
    """The emulated core as a machine."""
    memory = firmware.memory
    return Machine(
        cpu=f"a Cortex-M7 with the memories of {memory.device}",
        cores=1,
        threads=1,
        memory_bytes=sum(span.size_bytes for span in memory.ram()),
        system=f"no operating system; {firmware.compiler.title}",
    )
