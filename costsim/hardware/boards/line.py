"""A firmware on a line, as a session: a real board, or an emulated one behind a socket."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from costsim import __version__
from costsim.base.files import write_atomically
from costsim.c.emission import EmissionOptions, Quantization, emit, integers
from costsim.c.emission.reference import Reference
from costsim.c.emission.support import told_of_loss
from costsim.c.emulation.build import DoesNotFit, Firmware, build_firmware, source_digest
from costsim.c.emulation.elf import Image, read_image
from costsim.c.emulation.lines import Line, LineLost
from costsim.c.emulation.link import BoardFault, Link, LinkError, LinkTimeout, Status, encoding
from costsim.c.emulation.memory_map import MemoryMap
from costsim.c.emulation.toolchain import Compiler, find_compiler
from costsim.device import DeviceSpec
from costsim.hardware.boards.firmware import (
    FirmwareChoices,
    does_not_fit,
    losses_in_pytorch,
    noise,
    program_of,
    scales_of,
)
from costsim.hardware.results.emulation_comparison import LOSS_TOLERANCE
from costsim.hardware.results.outcome import Outcome
from costsim.hardware.results.record import AllocatorSummary, Machine, Measurement, spread_warnings
from costsim.hardware.targets.base import Session, Target, TargetError, TargetOptions, Watch
from costsim.hardware.targets.job import Job, PlanJob
from costsim.hardware.targets.readings import partial_outcome
from costsim.ir.program import TrainingProgram, plan_arena

LEARNING_RATE = 1e-6
"""Small: the step is measured, nothing is to be learnt from noise."""

PATIENCE, LEAST_PATIENCE_S = 10, 30.0
"""A step is first waited for so many times its predicted time, and at least so many seconds."""

LINE_STACK_BYTES = 4096
"""Stack of a firmware that speaks on a line: the protocol's frames are on it too."""


class LineSession(Session):
    """Builds the firmware, speaks with it, and counts what it says.

    What differs between a board and an emulator is where the line comes from (`open_line`), where
    its memories are (`board_memory`), and whether seconds mean something (`timed`).
    """

    timed: bool

    def __init__(
        self, target: Target, watch: Watch, choices: FirmwareChoices, options: TargetOptions
    ) -> None:
        super().__init__(target, watch)
        self.choices, self.options = choices, options
        self.compiler: Compiler | None = None
        self.job: PlanJob | None = None
        self.device: DeviceSpec | None = None
        self.program: TrainingProgram | None = None
        self.scales: Quantization | None = None
        self.firmware: Firmware | None = None
        self.image: Image | None = None
        self.sources: Mapping[str, str | bytes] = {}
        self.line: Line | None = None

    @abstractmethod
    def open_line(self, firmware: Firmware) -> Line:
        """The line that a firmware answers on, started if need be."""

    @abstractmethod
    def board_memory(self, memory: MemoryMap) -> MemoryMap:
        """The memories of the device where this target has them."""

    def start(self) -> None:
        """See that there is a compiler."""
        self.compiler = find_compiler(self.choices.compiler)

    def ship(self, job: Job) -> None:
        """Emit and build the firmware."""
        from safetensors.numpy import load_file

        if not isinstance(job, PlanJob):
            raise TargetError(
                self.target.name, "missing", "runs plans; for kernels a computer is needed"
            )
        self.job = job
        self.device, memory = self.choices.board(job.plan)
        self.program = program_of(job)
        self.scales = scales_of(job, self.program)
        self.watch.report("building the firmware", 0, 0)
        self.sources = emit(
            self.program,
            load_file(job.weights),
            options=EmissionOptions(learning_rate=LEARNING_RATE),
            quantization=self.scales,
        )
        stack = max(self.choices.stack_bytes, LINE_STACK_BYTES)
        memory = self.board_memory(memory)
        try:
            self.firmware = build_firmware(
                self.sources, memory, stack_bytes=stack, port="uart", compiler=self.compiler
            )
        except DoesNotFit as error:
            raise does_not_fit(self.target.name, self.program, memory, error) from error
        self.image = read_image(self.firmware.elf)

    def run(self) -> None:
        """Open the line."""
        assert self.firmware is not None
        self._close()
        self.watch.report("waiting for the firmware", 0, 0)
        try:
            self.line = self.open_line(self.firmware)
        except LineLost as error:
            raise TargetError(self.target.name, "unreachable", str(error)) from error

    def collect(self) -> Outcome:
        """Steps over the line, and what the firmware painted and counted."""
        losses: list[float] = []
        seconds: list[float] = []
        link = self._link()
        try:
            status = self._steps(link, losses, seconds)
        except (LineLost, LinkError, TargetError) as error:
            ended = self._ended_by(error)
            ended.partial = self._cut_short(ended, losses, tuple(seconds))
            raise ended from error
        assert self.program is not None
        arena = plan_arena(self.program).size_bytes
        notes = [f"the arena is painted over to byte {status.arena_bytes:,} of {arena:,} planned"]
        outcome = self._outcome(losses, tuple(seconds), notes)
        counts = {
            "arena_bytes": status.arena_bytes,
            "stack_bytes": status.stack_bytes,
            "steps": status.steps,
            "frames_sent": link.traffic.asked,
            "frames_sent_again": link.traffic.asked_again,
        }
        return outcome.model_copy(update={"counts": counts})

    def _link(self) -> Link:
        assert self.line is not None
        assert self.program is not None
        given = None
        if self.scales is not None:
            given = self.scales.values[self.program.graph.input]
        return Link(
            self.line,
            step_timeout_s=self._patience_s(),
            limit_s=self.options.time_limit_s,
            check=lambda: self.watch.check(self.target.name),
            locate=self._symbol,
            encode=encoding(given),
        )

    def _steps(self, link: Link, losses: list[float], seconds: list[float]) -> Status:
        """Have the firmware make its steps; each is noted at once, so that it stays known."""
        assert self.program is not None
        assert self.job is not None
        x, labels = noise(self.program)
        if link.connect().digest != source_digest(self.sources):
            raise TargetError(
                self.target.name,
                "missing",
                "another firmware answered than that of this plan: flash the right one "
                "(?firmware=DIR writes it)",
            )
        link.init()
        steps = self.job.options.steps if self.timed else 1
        for number in range(steps):
            self.watch.report("stepping", number, steps)
            before = link.working_s
            loss = link.step(x, labels)
            losses.append(loss)
            seconds.append(link.working_s - before)
        return link.status()

    def _ended_by(self, error: LineLost | LinkError | TargetError) -> TargetError:
        """What went wrong, with a reason to act on."""
        name = self.target.name
        if isinstance(error, TargetError):
            return error
        if isinstance(error, LineLost):
            return TargetError(name, "unreachable", str(error))
        if isinstance(error, LinkTimeout):
            return TargetError(name, "time limit", str(error))
        if isinstance(error, BoardFault):
            return TargetError(name, "failed", f"{error}{self._operation(error.operation)}")
        return TargetError(name, "failed", str(error))

    def _cut_short(
        self, error: TargetError, losses: list[float], seconds: tuple[float, ...]
    ) -> Outcome | None:
        """The outcome of the steps that the firmware did make."""
        assert self.job is not None
        if not (self.timed and seconds):
            return None
        stopped = error.reason == "stopped"  # who waits for that wants no steps made here
        outcome = self._outcome([] if stopped else losses, seconds, [])
        assert outcome.measurement is not None
        return partial_outcome(outcome, outcome.measurement, seconds, self.job.options.steps, error)

    def _outcome(
        self, losses: list[float], seconds: tuple[float, ...], notes: list[str]
    ) -> Outcome:
        assert self.job is not None
        notes = [*notes, *told_of_loss(self.job.plan.loss)]
        if losses:
            expected = self._expected(len(losses))
            notes = [*notes, compared_losses(losses, expected, exact=self.scales is not None)]
        if self.timed:
            notes = [*notes, "seconds are from the last byte of the question to the answer"]
        return Outcome(
            target=self.target.name,
            how=self.target.how,
            measurement=self._measurement(seconds if self.timed else ()),
            conditions={"compiler": self.firmware.compiler.title if self.firmware else None},
            notes=tuple(notes),
        )

    def _patience_s(self) -> float:
        """How long a step is first waited for: generous, and a fraction of the whole time."""
        assert self.job is not None
        predicted = self.job.plan.predicted
        limit_s = self.options.time_limit_s
        if predicted is None or predicted.latency_s is None:
            return limit_s / PATIENCE
        return min(max(LEAST_PATIENCE_S, PATIENCE * predicted.latency_s.high), limit_s)

    def _expected(self, steps: int) -> list[float]:
        """Losses of the same steps in PyTorch, or in 8 bits by the numpy reference."""
        assert self.job is not None
        assert self.program is not None
        from safetensors.torch import load_file

        x, labels = noise(self.program)
        self.watch.report("the same steps here", 0, 0)
        batches = [(x, labels)] * steps
        tensors = load_file(self.job.weights)
        options = EmissionOptions(learning_rate=LEARNING_RATE)
        if self.scales is None:
            return losses_in_pytorch(self.program, tensors, batches, options)
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        stored = integers(self.program.graph, arrays, self.scales)
        reference = Reference(self.program, stored, self.scales, options, fused=True)
        return [reference.step(*batch) for batch in batches]

    def _operation(self, index: int | None) -> str:
        """What the program calls an operation, and its layer."""
        assert self.program is not None
        if index is None or index >= len(self.program.operations):
            return ""
        operation = self.program.operations[index]
        layer = None if operation.call is None else self.program.graph[operation.call].layer
        return f": {operation.name!r}" + ("" if layer is None else f", layer {layer!r}")

    def _symbol(self, address: int) -> str:
        found = None if self.image is None else self.image.function_at(address & ~1)
        return f" in {found.name}" if found else ""

    def _measurement(self, seconds: tuple[float, ...]) -> Measurement:
        assert self.job is not None
        assert self.firmware is not None
        memory = self.firmware.memory
        return Measurement(
            model=self.job.plan.model.name,
            machine=Machine(
                cpu=f"{memory.device} ({self.target.name})",
                cores=1,
                threads=1,
                memory_bytes=sum(span.size_bytes for span in memory.ram()),
                system="no operating system",
            ),
            versions={"costsim": __version__, "compiler": self.firmware.compiler.title},
            dtype="float32" if self.scales is None else "int8",
            step_s=seconds,
            updated_weight_bytes=0,
            operations=(),
            buffers=(),
            allocator=AllocatorSummary.of_an_arena(),
            warnings=spread_warnings(seconds) if seconds else (),
        )

    def _close(self) -> None:
        line, self.line = self.line, None
        if line is not None:
            line.close()

    def clean_up(self) -> None:
        """Close the line."""
        self._close()


def compared_losses(found: Sequence[float], expected: Sequence[float], *, exact: bool) -> str:
    """A sentence on whether a firmware computed what it should."""
    pairs = list(zip(found, expected, strict=True))
    count = f"{len(pairs)} {'step' if len(pairs) == 1 else 'steps'}"
    if exact:
        equal = sum(np.float32(a) == np.float32(b) for a, b in pairs)
        if equal == len(pairs):
            return f"the losses of {count} are the numpy reference's, bit by bit"
        return f"WRONG: of the losses of {count} only {equal} are the numpy reference's"
    apart = [abs(a - b) / max(abs(b), 1e-6) for a, b in pairs]
    furthest = max(apart, key=lambda one: (math.isnan(one), one))
    if furthest <= LOSS_TOLERANCE:
        return f"the losses of {count} are PyTorch's, to {furthest:.1g} of them"
    return f"WRONG: the losses of {count} are up to {furthest:.2g} of them off PyTorch's"


def write_project(
    folder: Path, firmware: Firmware, sources: Mapping[str, str | bytes]
) -> tuple[str, ...]:
    """Write all a board's own build needs into `folder`; the names of the files.

    The port in `uart_cmsdk.c` is that of the emulated board: a real one needs the three functions
    of `uart.h` for its own line. The ELF is built with the port as it is.
    """
    from costsim.c.emulation.build import firmware_sources
    from costsim.c.emulation.linker import linker_script

    contents: dict[str, Any] = dict(firmware_sources(sources, "uart"))
    contents["costsim.ld"] = linker_script(firmware.memory, firmware.stack_bytes).encode()
    contents["flags.txt"] = " ".join(firmware.compiler.flags).encode() + b"\n"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_atomically(folder / name, content)
    return tuple(sorted(contents))
