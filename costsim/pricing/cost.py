"""The price of a program: memory in every accounting, MACs, bytes moved, time and energy."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any

from costsim.device import ComputeTarget, DeviceSpec, Interval
from costsim.device.kernels import kernel_name
from costsim.ir.graph import LayerGraph
from costsim.ir.plan import UpdatePlan
from costsim.ir.program import (
    Category,
    Direction,
    Operation,
    TrainingProgram,
    compile_program,
    memory_timeline,
    plan_arena,
)
from costsim.ir.step import TrainingStep
from costsim.pricing.accounting.tiny_training import tiny_training_bytes


@dataclass(frozen=True, slots=True)
class MemoryCost:
    """Bytes of one step.

    `peak_bytes`: the most live at once; `peak_operation` says where, `at_peak` of what. Frozen
    weights are not in it: they stand apart, in flash or in RAM, as the device keeps them.
    `arena_bytes`: what offset assignment needs for the same buffers. `paper_bytes`: updated
    weights, their gradients and optimizer state, and what is kept for the backward pass, each
    once. `tiny_training_bytes`: the int8 accounting of Lin et al. (NeurIPS 2022).
    """

    peak_bytes: int
    arena_bytes: int
    paper_bytes: int
    tiny_training_bytes: int
    kept_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    updated_weight_bytes: int
    frozen_weight_bytes: int
    peak_operation: str
    at_peak: Mapping[str, int]

    def in_accounting(self, accounting: str) -> int:
        """The one number a budget in `accounting` limits."""
        return {
            "peak": self.peak_bytes,
            "arena": self.arena_bytes,
            "paper": self.paper_bytes,
            "tiny-training": self.tiny_training_bytes,
        }[accounting]


@dataclass(frozen=True, slots=True)
class MacCost:
    """Multiply-accumulates of one step, padding taps included; `unpadded` has them left out."""

    forward: int
    recompute: int
    input_gradient: int
    weight_gradient: int
    unpadded: int

    @property
    def backward(self) -> int:
        """Input gradients, weight gradients, and what is computed a second time for them."""
        return self.recompute + self.input_gradient + self.weight_gradient

    @property
    def total(self) -> int:
        """Both passes."""
        return self.forward + self.backward

    def __mul__(self, times: int) -> "MacCost":
        return MacCost(*(times * getattr(self, field.name) for field in fields(self)))

    def to_json(self) -> dict[str, int]:
        """The `macs` of a plan file's predicted costs."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class DeviceCost:
    """What one step costs on a device.

    `fits` says whether buffers and frozen weights are in the memories they belong in without
    swapping; `swap_s` is what swapping adds, None where the step does not fit at all.
    """

    device: str
    target: str
    latency_s: Interval
    swap_s: Interval | None
    energy_j: Interval
    fits: bool


@dataclass(frozen=True, slots=True)
class Cost:
    """Everything one training step costs."""

    memory: MemoryCost
    macs: MacCost
    moved_bytes: int
    on_device: DeviceCost | None = None

    def to_json(self, accounting: str) -> dict[str, Any]:
        """The `predicted` of a plan file, without the whole task."""
        memory = self.memory
        document: dict[str, Any] = {
            "memory": {
                "accounting": accounting,
                "peak_bytes": memory.peak_bytes,
                "arena_bytes": memory.arena_bytes,
                "paper_bytes": memory.paper_bytes,
                "tiny_training_bytes": memory.tiny_training_bytes,
                "kept_bytes": memory.kept_bytes,
                "gradient_bytes": memory.gradient_bytes,
                "optimizer_bytes": memory.optimizer_bytes,
                "updated_weight_bytes": memory.updated_weight_bytes,
                "frozen_weight_bytes": memory.frozen_weight_bytes,
                "peak_operation": memory.peak_operation,
                "at_peak": dict(memory.at_peak),
            },
            "macs": self.macs.to_json(),
            "moved_bytes": self.moved_bytes,
        }
        if (on := self.on_device) is not None:
            step = on.latency_s
            document["latency_s"] = {"step": step.value, "low": step.low, "high": step.high}
            document["swap_s"] = None if on.swap_s is None else on.swap_s.to_json()
            document["energy_j"] = on.energy_j.value
            document["energy_interval_j"] = on.energy_j.to_json()
            document["fits"] = on.fits
        return document


def price(
    program: TrainingProgram, device: DeviceSpec | None = None, target: str | None = None
) -> Cost:
    """Read every cost off `program`; time and energy for a `device` on its compute `target`.

    Raises `InputError` for a target the device lacks.
    """
    memory = memory_cost(program)
    on_device = None
    if device is not None:
        on_device = _on_device(program, memory, device, target)
    return Cost(memory, mac_cost(program), moved_bytes(program), on_device)


def memory_cost(program: TrainingProgram) -> MemoryCost:
    """Bytes of one step of `program`, in every accounting."""
    timeline = memory_timeline(program)
    sizes = {
        category: sum(b.bytes for b in program.buffers if b.category is category)
        for category in Category
    }
    kept = sum(buffer.bytes for buffer in program.kept())
    trained = (
        sizes[Category.UPDATED_WEIGHTS]
        + sizes[Category.WEIGHT_GRADIENT]
        + sizes[Category.OPTIMIZER]
    )
    return MemoryCost(
        peak_bytes=timeline.peak_bytes,
        arena_bytes=plan_arena(program).size_bytes,
        paper_bytes=trained + kept,
        tiny_training_bytes=tiny_training_bytes(program.graph, program.plan),
        kept_bytes=kept,
        gradient_bytes=sizes[Category.WEIGHT_GRADIENT],
        optimizer_bytes=sizes[Category.OPTIMIZER],
        updated_weight_bytes=sizes[Category.UPDATED_WEIGHTS],
        frozen_weight_bytes=sizes[Category.FROZEN_WEIGHTS],
        peak_operation=program.operations[timeline.peak_position].name,
        at_peak={str(c): size for c, size in timeline.at_peak().items() if size},
    )


def mac_cost(program: TrainingProgram) -> MacCost:
    """MACs of one step of `program`, by cause."""

    def total(direction: Direction) -> int:
        return sum(
            program.times(op) * op.macs for op in program.operations if op.direction is direction
        )

    return MacCost(
        total(Direction.FORWARD),
        total(Direction.RECOMPUTE),
        total(Direction.INPUT_GRADIENT),
        total(Direction.WEIGHT_GRADIENT),
        sum(program.times(op) * op.unpadded_macs for op in program.operations),
    )


def full_backward_macs(graph: LayerGraph, step: TrainingStep) -> int:
    """MACs of the backward pass that updates everything: what a share of MACs is of.

    Nothing is computed a second time in it, whatever the step does.
    """
    return step.passes * _full_backward_macs_a_pass(graph, step.samples_a_pass)


@lru_cache(maxsize=64)
def _full_backward_macs_a_pass(graph: LayerGraph, samples: int) -> int:
    """Kept by value, because every task of a model asks for it again."""
    program = compile_program(graph, UpdatePlan.full(graph), TrainingStep(samples))
    return mac_cost(program).backward


def moved_bytes(program: TrainingProgram) -> int:
    """Bytes that the operations of one step read and write."""
    return sum(program.times(op) * op.moved_bytes for op in program.operations)


def step_seconds(program: TrainingProgram, target: ComputeTarget) -> Interval:
    """Seconds of one step of `program` on `target`, without swapping."""
    return target.at(program.step.bits).total_seconds(
        [operation_work(program, op) for op in program.operations],
        [program.times(op) for op in program.operations],
    )


def resident_bytes(program: TrainingProgram, device: DeviceSpec) -> tuple[int, int]:
    """Bytes of RAM that a step has live at once: its buffers, and those with frozen weights.

    Both are the same where the device keeps frozen weights in flash.
    """
    peak = memory_timeline(program).peak_bytes
    if device.placement.frozen_weights == "flash":
        return peak, peak
    return peak, peak + program.bytes_of(Category.FROZEN_WEIGHTS)


def operation_work(
    program: TrainingProgram, operation: Operation
) -> tuple[str, str, float, float, str]:
    """What `ComputeTarget.total_seconds` asks of an operation: kind to bytes, and the kernel."""
    kernel = kernel_name(
        program.graph,
        operation.direction,
        operation.call,
        program.step.optimizer,
        saves=len(operation.writes) > 1,
    )
    return (
        operation.work_kind,
        str(operation.direction),
        operation.macs,
        operation.moved_bytes,
        kernel,
    )


def _on_device(
    program: TrainingProgram, memory: MemoryCost, device: DeviceSpec, target_name: str | None
) -> DeviceCost:
    target = device.target(target_name)
    latency = step_seconds(program, target)
    resident = memory.frozen_weight_bytes
    in_ram = device.placement.frozen_weights == "ram"
    ram_needed = memory.peak_bytes + (resident if in_ram else 0)
    flash_fits = in_ram or resident <= device.flash_bytes
    room = device.largest_block_bytes
    swap = None
    if flash_fits:
        swap = device.swap_seconds(ram_needed, room, passes=program.step.passes)
    return DeviceCost(
        device.name,
        target_name or device.default_target,
        latency,
        swap,
        target.joules(latency, swap or Interval.exactly(0.0)),
        fits=flash_fits and ram_needed <= room,
    )
