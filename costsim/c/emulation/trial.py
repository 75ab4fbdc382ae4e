"""A training program on an emulated core: emitted, built, run, watched.

with Trial.of(program, weights, memory) as trial:
    loss = trial.step(x, labels)            # fast
    seen = trial.observe(x, labels)         # one step, every access noted
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from costsim.base.errors import InputError
from costsim.c.emission import EmissionOptions, Quantization, emit, integers, read_weights
from costsim.c.emulation.build import DEFAULT_STACK_BYTES, DoesNotFit, Firmware, build_firmware
from costsim.c.emulation.counting import Work, count_work
from costsim.c.emulation.emulator import EmulatedFault, Emulator, Fault
from costsim.c.emulation.machine import MAILBOX_ADDRESS
from costsim.c.emulation.memory_map import MemoryMap
from costsim.c.emulation.stack import stack_bound
from costsim.c.emulation.toolchain import Compiler
from costsim.ir.operators import elements
from costsim.ir.program import TrainingProgram, plan_arena

PAINT = 0xA5A5_5AA5
"""What untouched memory is filled with: no float that training meets."""

ENTRIES = ("costsim_init", "costsim_train_step", "costsim_predict", "costsim_classify")


@dataclass(frozen=True)
class Touched:
    """Bytes of the arena that each operation wrote, and read before it wrote them: (first, end)."""

    written: Mapping[int, tuple[tuple[int, int], ...]]
    read: Mapping[int, tuple[tuple[int, int], ...]]


@dataclass(frozen=True)
class Observed:
    """One training step with every access noted.

    `class_means_bytes` are those of the class means that taking them touched, by the same paint.
    `arena_end_bytes` is the end of the highest word of the arena that is no longer as painted,
    `arena_touched_bytes` how many bytes are not; `stack_bytes` the high-water mark of the same
    paint, `stack_bound_bytes` the most the code can need. `work` is by operation, -1 for none.
    """

    loss: float
    arena_bytes: int
    arena_end_bytes: int
    arena_touched_bytes: int
    data_bytes: int
    stack_bytes: int
    stack_bound_bytes: int
    flash_bytes: int
    touched: Touched
    work: Mapping[int, Work]
    class_means_bytes: int = 0

    @property
    def ram_bytes(self) -> int:
        """RAM that the step really took: arena, data and stack."""
        return self.arena_end_bytes + self.data_bytes + self.stack_bytes


class Trial:
    """A built program on an emulated core; a context manager.

    `weights` are those the firmware was emitted with; of a program with 8-bit weights they are
    integers (`costsim.c.emission.integers`). A fault raises `EmulatedFault` whose text names the
    operation and its layer.
    """

    def __init__(
        self,
        program: TrainingProgram,
        weights: Mapping[str, Any],
        firmware: Firmware,
        *,
        memory: MemoryMap | None = None,
        time_limit_s: float = 60.0,
        options: EmissionOptions | None = None,
    ) -> None:
        self.program, self.weights, self.firmware = program, weights, firmware
        self.options = options or EmissionOptions()
        self._support: tuple[NDArray[np.float32], NDArray[Any]] | None = None
        graph, step = program.graph, program.step
        self.sample_shape = graph[graph.input].shape[1:]
        self.input_bytes = 4 * step.batch * elements(self.sample_shape)
        self.output_shape = graph[graph.output].shape
        pieces = (self.input_bytes, 4 * step.batch, 4 * elements(self.output_shape))
        starts = np.cumsum([0, *(-(-size // 8) * 8 for size in pieces)])
        self._input, self._labels, self._logits, end = (MAILBOX_ADDRESS + int(s) for s in starts)
        self.emulator = Emulator(
            firmware,
            memory=memory,
            mailbox_bytes=end - MAILBOX_ADDRESS,
            time_limit_s=time_limit_s,
        )

    @classmethod
    def of(
        cls,
        program: TrainingProgram,
        weights: Mapping[str, Any],
        memory: MemoryMap,
        *,
        options: EmissionOptions | None = None,
        quantization: Quantization | None = None,
        stack_bytes: int = DEFAULT_STACK_BYTES,
        compiler: Compiler | None = None,
        time_limit_s: float = 60.0,
    ) -> Self:
        """Emit and build `program` for `memory`; `weights` are floats, whatever its bit widths.

        A step in 8 bits needs a `quantization`. Raises `DoesNotFit` and `InputError`.
        """
        sources = emit(program, weights, options=options, quantization=quantization)
        firmware = build_firmware(sources, memory, stack_bytes=stack_bytes, compiler=compiler)
        stored = weights
        if quantization is not None:
            stored = integers(program.graph, weights, quantization)
        return cls(program, stored, firmware, time_limit_s=time_limit_s, options=options)

    def __enter__(self) -> Self:
        self.emulator.__enter__()
        try:
            self._paint()
            self.init()
        except BaseException:
            self.emulator.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.emulator.close()

    def _paint(self) -> None:
        memory, image = self.emulator.memory, self.emulator.image
        for (address, size), span in ((image.stack, memory.stack), (image.arena, memory.arena)):
            # Of a firmware that is too large, what there is.
            self.emulator.paint(address, max(0, min(size, span.end - address)), PAINT)

    def _call(self, function: str, *arguments: int) -> float:
        try:
            return self.emulator.call(function, *arguments)
        except EmulatedFault as error:
            arena, _ = self.emulator.image.arena
            raise named_fault(self.program, error.fault, arena) from error

    # Running.

    def init(self) -> None:
        """Start from the weights in flash."""
        self._call("costsim_init")

    def step(self, x: NDArray[np.float32], labels: NDArray[Any]) -> float:
        """One training step over `x` [batch, ...] and `labels` [batch]; the mean loss."""
        content = np.ascontiguousarray(x, dtype="<f4")
        expected = (self.program.step.batch, *self.sample_shape)
        if content.shape != expected or len(labels) != expected[0]:
            raise InputError(f"the input is {content.shape}; the program is for {expected}")
        self.emulator.write(self._input, content.tobytes())
        self.emulator.write(self._labels, np.asarray(labels, dtype="<i4").tobytes())
        return self._call("costsim_train_step", self._input, self._labels)

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """The output, as the program's graph shapes it, for the samples of one pass."""
        content = np.ascontiguousarray(x, dtype="<f4")
        expected = (self.output_shape[0], *self.sample_shape)
        if content.shape != expected:
            raise InputError(f"the input is {content.shape}; a prediction is for {expected}")
        self.emulator.write(self._input, content.tobytes())
        self._call("costsim_predict", self._input, self._logits)
        found = self.emulator.read(self._logits, 4 * elements(self.output_shape))
        return np.frombuffer(found, dtype="<f4").reshape(self.output_shape)

    def take_means(self, x: NDArray[np.float32], labels: NDArray[Any]) -> None:
        """Class means of the images `x` [N, ...] with `labels` 0, 1, ..., a pass at a time."""
        self._support = x, labels
        size = self.output_shape[0]
        self._call("costsim_begin_means", int(labels.max()) + 1)
        for first in range(0, len(x), size):
            part = np.asarray(labels[first : first + size], dtype="<i4")
            images = np.zeros((size, *self.sample_shape), dtype="<f4")
            images[: len(part)] = x[first : first + size]
            told = np.full(size, -1, dtype="<i4")
            told[: len(part)] = part
            self.emulator.write(self._input, images.tobytes())
            self.emulator.write(self._labels, told.tobytes())
            self._call("costsim_add_to_means", self._input, self._labels)
        self._call("costsim_end_means")

    def class_means(self) -> NDArray[np.float32]:
        """The class means as they are, [classes, outputs]."""
        symbol = self.emulator.image.symbols["costsim_class_means"]
        found = np.frombuffer(self.emulator.read(symbol.address, symbol.size_bytes), dtype="<f4")
        return found.reshape(-1, elements(self.output_shape[1:]))

    def classify(self, x: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Class and score of each sample of one pass."""
        size = self.output_shape[0]
        content = np.ascontiguousarray(x, dtype="<f4")
        if content.shape != (expected := (size, *self.sample_shape)):
            raise InputError(f"the input is {content.shape}; an answer is for {expected}")
        self.emulator.write(self._input, content.tobytes())
        scores = self._logits + 4 * size
        self._call("costsim_classify", self._input, self._logits, scores)
        classes = np.frombuffer(self.emulator.read(self._logits, 4 * size), dtype="<i4")
        return classes, np.frombuffer(self.emulator.read(scores, 4 * size), dtype="<f4")

    def arena(self) -> bytes:
        """The arena as it is: weights and optimizer state are in it."""
        return self.emulator.read(*self.emulator.image.arena)

    def updated(self) -> dict[str, NDArray[Any]]:
        """The updated parameters as they are, whole: floats, or integers in 8 bits."""
        return read_weights(self.program, self.weights, self.arena())

    # Watching.

    def observe(self, x: NDArray[np.float32], labels: NDArray[Any]) -> Observed:
        """One step from the start with every access noted: several times slower.

        With class means it goes by those of the images that they were taken of last.
        """
        emulator = self.emulator
        self._paint()
        self.init()
        means_bytes = self._means_again()
        emulator.clear()
        emulator.watch(True)
        loss = self.step(x, labels)
        touched = self._touched()
        emulator.watch(False)
        work = count_work(emulator.image, emulator.profile())
        arena_address, arena_bytes = emulator.image.arena
        painted = emulator.unpainted(arena_address, arena_bytes, PAINT)
        stack_address, stack_bytes = emulator.image.stack
        stack = emulator.unpainted(stack_address, stack_bytes, PAINT)
        deepest = stack_bytes if stack["first"] is None else stack["first"]
        return Observed(
            loss=loss,
            arena_bytes=arena_bytes,
            arena_end_bytes=painted["end"] or 0,
            arena_touched_bytes=painted["count"] or 0,
            data_bytes=emulator.image.data_bytes,
            stack_bytes=stack_bytes - deepest,
            stack_bound_bytes=max(stack_bound(emulator.image, entry) for entry in ENTRIES),
            flash_bytes=emulator.image.flash_bytes,
            touched=touched,
            work=work,
            class_means_bytes=means_bytes,
        )

    def _means_again(self) -> int:
        """Class means of the weights as they are at the start; bytes that were touched for them."""
        if self._support is None:
            return 0
        symbols, emulator = self.emulator.image.symbols, self.emulator
        means, classes = symbols["costsim_class_means"], symbols["costsim_classes"]
        emulator.paint(means.address, means.size_bytes, PAINT)
        self.take_means(*self._support)
        touched = emulator.unpainted(means.address, means.size_bytes, PAINT)["count"] or 0
        count = emulator.read(classes.address, classes.size_bytes)
        self._paint()
        self.init()
        emulator.write(classes.address, count)
        return touched

    def _touched(self) -> Touched:
        address, size = self.emulator.image.arena
        start = address - self.emulator.memory.arena.address
        found: tuple[dict[int, list[tuple[int, int]]], ...] = ({}, {})
        for operation, written, first, end in self.emulator.touched().tolist():
            low, high = max(0, first - start), min(size, end - start)
            if low < high:
                found[written].setdefault(operation, []).append((low, high))
        read, written_runs = ({k: tuple(v) for k, v in one.items()} for one in found)
        return Touched(written_runs, read)


class LayerFault(EmulatedFault):
    """A fault with the names of the operation, the buffer and the layer it happened in."""

    def __init__(
        self, fault: Fault, operation: str | None, layer: str | None, buffer: str | None
    ) -> None:
        super().__init__(fault)
        self.operation, self.layer, self.buffer = operation, layer, buffer
        told = [repr(operation)] if operation else []
        told += [f"layer {layer!r}"] if layer else []
        told += [f"buffer {buffer!r}"] if buffer else []
        if told:
            self.args = (f"{self.args[0]}: {', '.join(told)}",)


def named_fault(program: TrainingProgram, fault: Fault, arena_address: int) -> LayerFault:
    """`fault` with the names of the program."""
    name = layer = None
    known = fault.operation is not None and fault.operation < len(program.operations)
    if known:
        assert fault.operation is not None
        operation = program.operations[fault.operation]
        name = operation.name
        layer = None if operation.call is None else program.graph[operation.call].layer
    buffer = _buffer_at(program, fault, arena_address, fault.operation if known else None)
    if layer is None and buffer is not None and buffer.startswith(_OF_LAYERS):
        layer = buffer.split(":", 2)[2]
    return LayerFault(fault, name, layer, buffer)


_OF_LAYERS = ("weights:", "dweights:", "optimizer:")


def _buffer_at(
    program: TrainingProgram, fault: Fault, arena_address: int, operation: int | None
) -> str | None:
    """The buffer planned where the fault was: one alive then, or one that always is."""
    if fault.address is None:
        return None
    offset, last = fault.address - arena_address, len(program.operations) - 1
    for index, start in plan_arena(program).offsets_bytes.items():
        buffer = program.buffers[index]
        if start < offset + (fault.size or 1) and offset < start + buffer.bytes:
            always = buffer.birth == 0 and buffer.death == last
            if always if operation is None else buffer.birth <= operation <= buffer.death:
                return buffer.name
    return None


def least_memory(
    program: TrainingProgram,
    weights: Mapping[str, Any],
    memory: MemoryMap,
    *,
    stack_bytes: int = DEFAULT_STACK_BYTES,
    compiler: Compiler | None = None,
    options: EmissionOptions | None = None,
    quantization: Quantization | None = None,
) -> int:
    """The least bytes of the arena's RAM that the program can be linked for."""
    roomy = replace(memory, arena=replace(memory.arena, size_bytes=1 << 26))
    if memory.shared:
        roomy = replace(roomy, stack=roomy.arena)
    sources = emit(program, weights, options=options, quantization=quantization)
    firmware = build_firmware(sources, roomy, stack_bytes=stack_bytes, compiler=compiler)
    from costsim.c.emulation.elf import read_image

    address, size = read_image(firmware.elf).arena
    return address + size - memory.arena.address


__all__ = [
    "DoesNotFit",
    "LayerFault",
    "Observed",
    "Touched",
    "Trial",
    "least_memory",
    "named_fault",
]
