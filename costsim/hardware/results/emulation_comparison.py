"""An emulated step beside its prediction, and beside the same steps computed elsewhere."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from costsim.c.emission.memory import Memory
from costsim.c.emission.sizes import sizes_of
from costsim.hardware.results.emulated_step import EmulatedStep
from costsim.hardware.results.record import Comparison, Measurement
from costsim.ir.program import Category, Direction, memory_timeline, plan_arena
from costsim.ir.program.layer_of import buffer_owner, operation_owner
from costsim.pricing.cost import memory_cost
from costsim.solving.planfile import Prediction

LOSS_TOLERANCE = 1e-4
"""Share by which losses of several steps may differ from PyTorch's: 32-bit sums in other orders."""


@dataclass(frozen=True)
class ToPyTorch:
    """PyTorch's `losses` of the same steps in 32 bits, to which the emulated ones are held.

    `weights_error` is the most that an updated weight is off, on a scale of `weights_scale`.
    """

    losses: tuple[float, ...]
    weights_error: float
    weights_scale: float

    def compare(self, losses: Sequence[float]) -> Iterator[Comparison]:
        """The first and the last loss, and the weights: 32-bit sums in other orders."""
        yield from _losses(self.losses, losses, "PyTorch's", LOSS_TOLERANCE)
        yield Comparison.of(
            "updated weights, greatest of PyTorch's and beside it",
            self.weights_scale,
            self.weights_scale + self.weights_error,
            unit="1",
            tolerance=LOSS_TOLERANCE,
        )


@dataclass(frozen=True)
class ToReference:
    """The numpy reference of 8 bits after the same steps: everything must be equal, bit by bit.

    Of `weights` updated integers `equal_weights` are. `in_floats` are PyTorch's losses in 32 bits,
    which say how much 8 bits cost, and judge nothing.
    """

    losses: tuple[float, ...]
    weights: int
    equal_weights: int
    in_floats: tuple[float, ...]

    def compare(self, losses: Sequence[float]) -> Iterator[Comparison]:
        """The loss of every step, the weights, and 32 bits beside the first and the last."""
        equal = sum(a == b for a, b in zip(losses, self.losses, strict=True))
        yield from _losses(self.losses, losses, "the reference's", 0.0)
        yield Comparison.of(
            "losses equal to the reference's, bit by bit", len(losses), equal, unit="1"
        )
        yield Comparison.of(
            "updated integers equal to the reference's",
            self.weights,
            self.equal_weights,
            unit="1",
        )
        yield from _losses(self.in_floats, losses, "PyTorch's in 32 bits", None)


def _losses(
    expected: Sequence[float], found: Sequence[float], whose: str, tolerance: float | None
) -> Iterator[Comparison]:
    """The first and the last."""
    for number in dict.fromkeys((0, len(found) - 1)):
        yield Comparison.of(
            f"loss of step {number + 1}, {whose} beside it",
            expected[number],
            found[number],
            unit="1",
            tolerance=tolerance,
        )


def compare_emulated(
    step: EmulatedStep,
    measured: Measurement,
    *,
    losses: Sequence[float],
    oracle: ToPyTorch | ToReference,
    promised: Prediction | None = None,
) -> Iterator[Comparison]:
    """What was emulated beside what was predicted: bytes and MACs must be equal.

    `promised` is what the plan file says; without it, what its program does. `oracle` is what the
    same steps give elsewhere. The stack may stay below its bound, and what is alive below the plan,
    which keeps a buffer whole until its last reader.
    """
    program, observed = step.program, step.observed
    arena = plan_arena(program)
    memory = memory_cost(program) if promised is None else promised.memory
    yield Comparison.of("arena", memory.arena_bytes, observed.arena_end_bytes)
    yield Comparison.of("arena in use", step.planned_bytes, step.touched_bytes)
    yield _at_most("live peak", memory.peak_bytes, measured.program_peak_bytes)
    yield Comparison.of("kept", memory.kept_bytes, measured.kept_bytes)
    yield Comparison.of(
        "weight gradients", memory.gradient_bytes, measured.bytes_of(Category.WEIGHT_GRADIENT)
    )
    yield Comparison.of(
        "optimizer state", memory.optimizer_bytes, measured.bytes_of(Category.OPTIMIZER)
    )
    yield Comparison.of(
        "updated weights", memory.updated_weight_bytes, measured.updated_weight_bytes
    )
    yield Comparison.of("bytes outside their buffers", 0, sum(n for _, n in step.strays()))
    sizes = sizes_of(Memory(program), 0, step.options)
    if sizes.class_means_bytes:
        yield Comparison.of("class means", sizes.class_means_bytes, observed.class_means_bytes)
    own = observed.data_bytes - observed.class_means_bytes
    yield Comparison.of("variables", sizes.variable_bytes, own)
    yield _at_most("stack", observed.stack_bound_bytes, observed.stack_bytes)
    ram = arena.size_bytes + sizes.data_bytes + observed.stack_bound_bytes
    yield _at_most("RAM (arena, variables, stack)", ram, observed.ram_bytes)
    yield Comparison.of(
        "flash (predicted: weights)",
        sizes.frozen_weight_bytes + sizes.initial_weight_bytes,
        observed.flash_bytes,
        tolerance=None,
    )
    yield from _macs(step)
    if promised is not None:
        positions = range(len(program.operations))
        found = sum(step.executed_macs(i) for i in positions if program.operations[i].macs)
        yield Comparison.of(
            "MACs in all, padding apart", promised.macs.unpadded, found, unit="MACs"
        )
    yield from _operations(step)
    yield from oracle.compare(losses)
    if promised is not None and promised.latency_s is not None:
        yield Comparison.of(
            "step (emulated, not measured)",
            promised.latency_s.step,
            step.latency_s.value,
            unit="s",
            tolerance=None,
        )
    yield from _owners(step, measured)
    for one in step.by_layer:
        if one.owner is not None:
            yield Comparison.of(
                "seconds (emulated, not measured)",
                one.predicted_s,
                one.latency_s.value,
                owner=one.owner,
                unit="s",
                tolerance=None,
            )


def _at_most(quantity: str, predicted: int, measured: int) -> Comparison:
    """A bound: less is fine."""
    return Comparison.of(
        quantity, predicted, measured, tolerance=None if measured < predicted else 0.0
    )


def _macs(step: EmulatedStep) -> Iterator[Comparison]:
    """MACs without padding taps, by direction: what a kernel that skips them executes."""
    predicted: dict[Direction, int] = defaultdict(int)
    found: dict[Direction, int] = defaultdict(int)
    for position, op in enumerate(step.program.operations):
        if op.macs:
            predicted[op.direction] += step.program.times(op) * op.unpadded_macs
            found[op.direction] += step.executed_macs(position)
    for direction in Direction:
        if direction in predicted:
            yield Comparison.of(
                f"{direction} MACs, padding apart",
                predicted[direction],
                found[direction],
                unit="MACs",
            )


def _operations(step: EmulatedStep) -> Iterator[Comparison]:
    """Only where more is alive than planned: the operation at which it is most."""
    live = memory_timeline(step.program).total_bytes
    rows = [
        (op.name, int(live[i]), int(step.liveness.live_bytes[i]))
        for i, op in enumerate(step.program.operations)
    ]
    name, predicted, found = max(rows, key=lambda row: row[2] - row[1])
    if found > predicted:
        yield Comparison.of(f"live at {name!r}", predicted, found)


def _owners(step: EmulatedStep, measured: Measurement) -> Iterator[Comparison]:
    """Bytes kept and learnt, and MACs, by layer."""
    program = step.program
    predicted: dict[tuple[str, str], int] = defaultdict(int)
    found: dict[tuple[str, str], int] = defaultdict(int)
    kept = {buffer.name for buffer in program.kept()}
    told = {
        Category.WEIGHT_GRADIENT: "weight gradients",
        Category.OPTIMIZER: "optimizer state",
    }
    by_name = {one.name: one for one in measured.buffers}
    for buffer in program.buffers:
        owner = buffer_owner(program, buffer.name)
        what = "kept" if buffer.name in kept else told.get(buffer.category)
        if owner and what and buffer.name in by_name:
            one = by_name[buffer.name]
            predicted[owner, what] += buffer.bytes
            found[owner, what] += one.bytes if what != "kept" or one.kept else 0
    for position, op in enumerate(program.operations):
        owner = operation_owner(program, op)
        if owner and op.macs:
            predicted[owner, f"{op.direction} MACs"] += program.times(op) * op.unpadded_macs
            found[owner, f"{op.direction} MACs"] += step.executed_macs(position)
    order = {call.layer or call.name: i for i, call in enumerate(program.graph.calls)}
    for owner, what in sorted(predicted, key=lambda key: (order[key[0]], key[1])):
        yield Comparison.of(
            what,
            predicted[owner, what],
            found[owner, what],
            owner=owner,
            unit="MACs" if what.endswith("MACs") else "bytes",
        )
