"""Compile a plan: the schedule's active steps, their buffers, and when each is live."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from costsim.base.errors import InputError
from costsim.ir.graph import LayerGraph
from costsim.ir.plan import UpdatePlan
from costsim.ir.program.backward import build_schedule
from costsim.ir.program.program import Buffer, Operand, Operation, TrainingProgram
from costsim.ir.program.schedule import (
    Access,
    Atom,
    Category,
    Direction,
    Schedule,
    Step,
    Storage,
)
from costsim.ir.step import TrainingStep

_PERSISTENT = {Category.UPDATED_WEIGHTS, Category.FROZEN_WEIGHTS, Category.OPTIMIZER}


def compile_program(
    graph: LayerGraph,
    plan: UpdatePlan,
    step: TrainingStep,
    schedule: Schedule | None = None,
) -> TrainingProgram:
    """The training program of `plan` on `graph`.

    `graph` must be traced at the samples of one pass. A `schedule` of the same graph and step may
    be given to save building it. Raises `InputError` for a plan or a batch that does not fit.
    """
    plan.check(graph)
    if graph.batch != step.samples_a_pass:
        raise InputError(
            f"the graph was traced at batch {graph.batch}, the step passes "
            f"{step.samples_a_pass} samples at a time"
        )
    if schedule is None:
        schedule = build_schedule(graph, step, updates=bool(plan.subsets or plan.biases))
    return _Compiler(schedule, plan, step).compile()


def plan_atoms(plan: UpdatePlan) -> dict[Atom, tuple[int, ...]]:
    """The updates in a plan; the channels of each, `(0,)` standing for a whole bias."""
    atoms: dict[Atom, tuple[int, ...]] = {
        (subset.axis, subset.layer): subset.channels for subset in plan.subsets
    }
    return atoms | {("bias", name): (0,) for name in sorted(plan.biases)}


@dataclass
class _Live:
    """A buffer being found: its size, its first and its last operation."""

    storage: Storage
    bytes: int
    birth: int
    death: int


class _Compiler:
    def __init__(self, schedule: Schedule, plan: UpdatePlan, step: TrainingStep) -> None:
        self.schedule, self.plan, self.step = schedule, plan, step
        self.atoms = plan_atoms(plan)
        self.active = frozenset(self.atoms)
        self.kept_whole: set[str] = set()
        self.kept_channels: dict[str, set[int]] = {}
        self.live: dict[str, _Live] = {}

    def compile(self) -> TrainingProgram:
        for step in self.schedule.steps:
            if self._is_needed(step):
                self._note_kept(step)
        steps = [s for s in self.schedule.steps if self._is_needed(s) or self._keeps(s)]
        operations = []
        for position, step in enumerate(steps):
            reads, writes = self._operands(step, step.reads), self._operands(step, step.writes)
            for name, _ in (*reads, *writes):
                self._touch(name, position)
            operations.append((step, reads, writes))
        self._touch_persistent(len(steps))
        index = {name: i for i, name in enumerate(self.live)}
        return TrainingProgram(
            self.schedule.graph,
            self.plan,
            self.step,
            tuple(self._operation(*operation, index) for operation in operations),
            tuple(
                Buffer(
                    name,
                    live.storage.category,
                    live.storage.shape,
                    live.storage.bits,
                    live.bytes,
                    live.birth,
                    live.death,
                )
                for name, live in self.live.items()
            ),
        )

    # What the backward pass of this plan needs kept.

    def _is_needed(self, step: Step) -> bool:
        return step.guard is None or not step.guard.isdisjoint(self.active)

    def _note_kept(self, step: Step) -> None:
        for access in step.reads:
            if not access.keeps or access.storage.startswith("parameter:"):
                continue
            if access.selected_only:
                assert access.value is not None
                self.kept_channels.setdefault(access.value, set()).update(self._channels(step))
            else:
                self.kept_whole.add(access.storage)

    def _channels(self, step: Step) -> tuple[int, ...]:
        assert step.channels_of is not None
        return self.atoms[step.channels_of]

    def _keeps(self, step: Step) -> bool:
        """Whether a keep step has something to keep that is not there whole anyway."""
        if step.direction is not Direction.KEEP:
            return False
        (source,) = step.reads
        return source.value in self.kept_channels and source.storage not in self.kept_whole

    # Buffers.

    def _physical(self, name: str) -> str:
        """The buffer a storage ends up in, taken over in place by its successors or not."""
        storage = self.schedule.storages.get(name)
        while storage is not None and storage.successor and storage.name not in self.kept_whole:
            name = storage.successor
            storage = self.schedule.storages[name]
        return name

    def _operands(self, step: Step, accesses: tuple[Access, ...]) -> list[tuple[str, Operand]]:
        """Each access as a buffer name and an operand whose buffer index is not known yet."""
        found = []
        for access in accesses:
            if access.guard is not None and access.guard.isdisjoint(self.active):
                continue
            channels: tuple[int, ...] | None = None
            name = access.storage
            if access.role == "kept" or (access.role == "input" and access.selected_only):
                assert access.value is not None
                channels = tuple(sorted(self.kept_channels[access.value]))
            elif access.selected_only:
                channels = self._channels(step)
                if access.keeps and name not in self.kept_whole:
                    name = f"kept:{access.value}"
            size = access.bytes if channels is None else access.bytes * len(channels)
            found.append(
                (self._physical(name), Operand(access.role, -1, size, access.value, channels))
            )
        return found

    def _touch(self, name: str, position: int) -> None:
        if name in self.live:
            self.live[name].death = position
            return
        storage, size = self._sized(name)
        birth = 0 if storage.category is Category.INPUT else position
        self.live[name] = _Live(storage, size, birth, position)

    def _sized(self, name: str) -> tuple[Storage, int]:
        if name.startswith("kept:"):
            value = name.removeprefix("kept:")
            keep, channels = self.schedule.partial_keeps[value], self.kept_channels[value]
            bits = self.schedule.storages[keep.storage].bits
            shape = (len(channels), keep.channel_bytes * 8 // bits)
            size = keep.channel_bytes * len(channels)
            return Storage(name, Category.KEPT_CHANNELS, shape, bits), size
        storage = self.schedule.storages[name]
        if storage.category is Category.FROZEN_WEIGHTS:
            return storage, storage.bytes - self._updated_bytes.get(name, 0)
        count = 1 if storage.channels_of is None else len(self.atoms[storage.channels_of])
        return storage, storage.bytes * count

    @cached_property
    def _updated_bytes(self) -> Mapping[str, int]:
        """Bytes of each parameter that are updated, and so counted there and not as frozen."""
        updated: dict[str, int] = {}
        for (kind, layer), channels in self.atoms.items():
            owner = self.schedule.graph.layers[layer]
            parameter = owner.bias if kind == "bias" else owner.weight
            assert parameter is not None
            size = self.schedule.storages[f"weights:{kind}:{layer}"].bytes * len(channels)
            updated[f"parameter:{parameter.name}"] = size
        return updated

    def _touch_persistent(self, count: int) -> None:
        """Weights and optimizer state live through the step, and so do gradients of many passes."""
        for name, storage in self.schedule.storages.items():
            present = storage.channels_of is None or storage.channels_of in self.atoms
            if storage.category in _PERSISTENT and present:
                self._touch(name, 0)
        for live in self.live.values():
            lasting = live.storage.category in _PERSISTENT or (
                self.step.passes > 1 and live.storage.category is Category.WEIGHT_GRADIENT
            )
            if lasting:
                live.birth, live.death = 0, count - 1

    def _operation(
        self,
        step: Step,
        reads: list[tuple[str, Operand]],
        writes: list[tuple[str, Operand]],
        index: Mapping[str, int],
    ) -> Operation:
        channels = None if step.channels_of is None else self._channels(step)
        macs = step.macs * (1 if channels is None else len(channels))
        inside, taps = step.unpadded_share
        return Operation(
            step.name,
            step.direction,
            step.call,
            step.work_kind,
            tuple(_at(operand, index[name]) for name, operand in reads),
            tuple(_at(operand, index[name]) for name, operand in writes),
            macs,
            macs * inside // taps,
            channels,
            step.input_index,
        )


def _at(operand: Operand, buffer: int) -> Operand:
    return Operand(operand.role, buffer, operand.bytes, operand.value, operand.channels)
