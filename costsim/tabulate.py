"""Deriving the cost table from a schedule: which buffers are live when, under which updates.

A buffer of the schedule is live at a position if one of the steps that still read it is active, so
its bytes there are multiplied by a clause: the union of those steps' guards. Compiling a plan finds
the same lifetimes by scanning its operations; that the two agree is a test.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from costsim.device.kernels import kernel_name
from costsim.graph import LayerGraph
from costsim.program import (
    AXES,
    Atom,
    Category,
    Direction,
    Guard,
    Schedule,
    Step,
    build_schedule,
)
from costsim.program.schedule import Access, Storage
from costsim.step import TrainingStep
from costsim.table import (
    Conjunction,
    CostTable,
    Floats,
    Linear,
    OperationTimer,
    SharedKeep,
)


def build_table(
    graph: LayerGraph,
    step: TrainingStep,
    *,
    timer: OperationTimer | None = None,
    orders: Mapping[Atom, Sequence[int]] | None = None,
    schedule: Schedule | None = None,
) -> CostTable:
    """Derive the cost table of `graph` under `step`.

    `orders` names, for some atoms, the order in which channels are taken (ascending otherwise).
    Without a `timer` the table has no seconds.
    """
    return _TableBuilder(schedule or build_schedule(graph, step), step, timer, orders or {}).build()


class _TableBuilder:
    def __init__(
        self,
        schedule: Schedule,
        step: TrainingStep,
        timer: OperationTimer | None,
        orders: Mapping[Atom, Sequence[int]],
    ) -> None:
        self.schedule, self.step, self.timer = schedule, step, timer
        self.positions = len(schedule.steps)
        self.atoms = tuple(
            s.channels_of
            for s in schedule.storages.values()
            if s.category is Category.UPDATED_WEIGHTS and s.channels_of is not None
        )
        self.index = {atom: i for i, atom in enumerate(self.atoms)}
        self.sizes = tuple(
            1 if kind == "bias" else schedule.graph.selectable_channels(layer, kind)
            for kind, layer in self.atoms
        )
        self.orders = tuple(
            tuple(orders.get(atom, range(size)))
            for atom, size in zip(self.atoms, self.sizes, strict=True)
        )
        self.readers: dict[str, list[tuple[int, Step, Access]]] = {}
        self.written_at: dict[str, int] = {}
        for position, scheduled in enumerate(schedule.steps):
            for access in scheduled.reads:
                self.readers.setdefault(access.storage, []).append((position, scheduled, access))
            for access in scheduled.writes:
                self.written_at.setdefault(access.storage, position)
        self.clause_of: dict[Guard, int] = {}
        self.memory = _Coefficients(self.positions)
        self.kept = _Coefficients(1)
        self.conjunctions: dict[tuple[int, int], Floats] = {}
        self.shared: list[SharedKeep] = []
        self.keep_seconds: dict[str, Floats] = {}

    def build(self) -> CostTable:
        self._persistent()
        for storage in self.schedule.storages.values():
            if storage.category in (Category.INPUT, Category.ACTIVATION):
                self._activation(storage)
            elif storage.category in (Category.SAVED, Category.GRADIENT):
                self._guarded(storage)
        for value in self.schedule.partial_keeps:
            self._partial_keep(value)
        recompute, input_gradient, weight_gradient, forward_macs = self._macs()
        seconds, count_seconds = self._seconds()
        membership = np.zeros((len(self.clause_of), len(self.atoms)), dtype=bool)
        for guard, row in self.clause_of.items():
            membership[row, [self.index[atom] for atom in guard]] = True
        table = CostTable(
            atoms=self.atoms,
            sizes=self.sizes,
            orders=self.orders,
            clauses=tuple(self.clause_of),
            membership=membership,
            memory=self._linear(self.memory),
            conjunctions=tuple(Conjunction(*k, v) for k, v in self.conjunctions.items()),
            shared_keeps=tuple(self.shared),
            kept=self._linear(self.kept),
            gradients=self._linear(self._of_category(Category.WEIGHT_GRADIENT)),
            optimizer=self._linear(self._of_category(Category.OPTIMIZER)),
            updated_weights=self._linear(self._of_category(Category.UPDATED_WEIGHTS)),
            recompute=self._linear(recompute),
            input_gradient=self._linear(input_gradient),
            weight_gradient=self._linear(weight_gradient),
            forward_macs=forward_macs,
            seconds=None if seconds is None else self._linear(seconds),
            count_seconds=count_seconds,
            keep_seconds=self.keep_seconds,
        )
        return _without_dominated_positions(table)

    def _clause(self, guard: Guard) -> int:
        return self.clause_of.setdefault(guard, len(self.clause_of))

    def _linear(self, found: "_Coefficients") -> Linear:
        clauses = np.zeros((len(self.clause_of), found.width))
        channels = np.zeros((len(self.atoms), found.width))
        for guard, row in found.clauses.items():
            clauses[self.clause_of[guard]] += row
        for atom, row in found.channels.items():
            channels[self.index[atom]] += row
        return Linear(found.constant, clauses, channels)

    # Memory.

    def _of_category(self, category: Category) -> "_Coefficients":
        total = _Coefficients(1)
        for storage in self.schedule.storages.values():
            if storage.category is category and storage.channels_of is not None:
                total.add_channels(storage.channels_of, storage.bytes)
        return total

    def _span(self, first: int, last: int) -> Floats:
        """1 at the positions `first` to `last`, both included."""
        span = np.zeros(self.positions)
        span[first : last + 1] = 1.0
        return span

    def _persistent(self) -> None:
        everywhere = self._span(0, self.positions)
        for storage in self.schedule.storages.values():
            size = storage.bytes
            match storage.category:
                case Category.UPDATED_WEIGHTS | Category.OPTIMIZER:
                    assert storage.channels_of is not None
                    self.memory.add_channels(storage.channels_of, size * everywhere)
                case Category.WEIGHT_GRADIENT:
                    assert storage.channels_of is not None
                    span = everywhere
                    if self.step.passes == 1:
                        last = self._readers(storage.name)[-1][0]
                        span = self._span(self.written_at[storage.name], last)
                    self.memory.add_channels(storage.channels_of, size * span)

    def _readers(self, storage: str) -> list[tuple[int, Step, Access]]:
        return self.readers.get(storage, [])

    def _activation(self, storage: Storage) -> None:
        """Live through the forward pass; after it, while something that needs it is to come."""
        readers = self._readers(storage.name)
        backward = [reader for reader in readers if reader[2].keeps]
        forward = [reader for reader in readers if not reader[2].keeps]
        birth = 0 if storage.category is Category.INPUT else self.written_at[storage.name]
        end = max((position for position, _, _ in forward), default=birth)
        if storage.in_place_at is not None:
            end = storage.in_place_at - 1
        whole = self._whole_guard(storage.name)
        if storage.guard is None:
            self.memory.constant += storage.bytes * self._span(birth, end)
        else:
            self._computed_again(storage, forward, birth, end, whole)
        if not whole:
            return
        if storage.guard is None:
            self.kept.add_clause(whole, storage.bytes)
        self._clause(whole)
        start = end + 1
        for position in sorted({position for position, _, _ in backward}):
            later = [reader for reader in backward if reader[0] >= position]
            needs_whole = _union_of_guards(r for r in later if not r[2].selected_only)
            needs_part = _union_of_guards(r for r in later if r[2].selected_only)
            self._live_while(
                whole, needs_whole, needs_part, storage.bytes * self._span(start, position)
            )
            start = position + 1

    def _computed_again(
        self,
        storage: Storage,
        forward: Sequence[tuple[int, Step, Access]],
        birth: int,
        end: int,
        whole: Guard,
    ) -> None:
        """An activation of a second pass: live while that pass or a gradient has yet to read it."""
        assert storage.guard is not None
        self.memory.add_clause(storage.guard, storage.bytes * self._span(birth, birth))
        self._clause(storage.guard)
        start = birth + 1
        for position in sorted({min(position, end) for position, _, _ in forward} | {end}):
            later = whole
            for at, step, access in forward:
                if min(at, end) >= position:
                    is_keep = step.direction is Direction.KEEP
                    later |= self._keep_guard(access) if is_keep else (step.guard or later)
            if later and position >= start:
                self.memory.add_clause(later, storage.bytes * self._span(start, position))
                self._clause(later)
            start = position + 1

    def _keep_guard(self, kept: Access) -> Guard:
        """The updates for which channels of a value are kept."""
        return frozenset(
            step.channels_of
            for _, step, access in self._readers(kept.storage)
            if access.keeps and access.selected_only and access.value == kept.value
            if step.channels_of is not None
        )

    def _whole_guard(self, storage: str) -> Guard:
        """The updates for which a storage is kept whole."""
        return _union_of_guards(
            reader
            for reader in self._readers(storage)
            if reader[2].keeps and not reader[2].selected_only
        )

    def _live_while(self, whole: Guard, needs_whole: Guard, needs_part: Guard, row: Floats) -> None:
        """Add bytes that are live while the storage is kept whole and a reader is to come.

        A reader of some channels alone matters only if it can be in a plan together with a
        reader of the whole: not if both are the two axes of one layer.
        """
        if _exclude_each_other(whole, needs_part):
            if needs_whole:
                self.memory.add_clause(needs_whole, row)
                self._clause(needs_whole)
            return
        key = self._clause(whole), self._clause(needs_whole | needs_part)
        self.conjunctions[key] = self.conjunctions.get(key, np.zeros(self.positions)) + row

    def _guarded(self, storage: Storage) -> None:
        """A saved buffer or a gradient: live from its first writing to its last active reader."""
        start = self.written_at[storage.name]
        readers = self._readers(storage.name)
        if storage.channels_of is not None:
            span = self._span(start, max(position for position, _, _ in readers))
            self.memory.add_channels(storage.channels_of, storage.bytes * span)
            return
        if storage.category is Category.SAVED and start < self.schedule.loss_position:
            guard = _union_of_guards(readers)
            self.kept.add_clause(guard, storage.bytes)
            self._clause(guard)
        for position in sorted({position for position, _, _ in readers}):
            guard = _union_of_guards(r for r in readers if r[0] >= position)
            self.memory.add_clause(guard, storage.bytes * self._span(start, position))
            self._clause(guard)
            start = position + 1

    def _partial_keep(self, value: str) -> None:
        keep = self.schedule.partial_keeps[value]
        readers = [
            (position, step.channels_of)
            for position, step, access in self._readers(keep.storage)
            if access.selected_only and access.value == value and step.channels_of is not None
        ]
        atoms = sorted({atom for _, atom in readers}, key=self.index.__getitem__)
        whole = self._whole_guard(keep.storage)
        alone = len(atoms) == 1 and _exclude_each_other(whole, atoms)
        start, segments = keep.position, []
        for position in sorted({position for position, _ in readers}):
            guard: Guard = frozenset(atom for at, atom in readers if at >= position)
            segments.append((guard, self._span(start, position)))
            start = position + 1
        seconds = self._keep_seconds(keep.position, max(self.sizes[self.index[a]] for a in atoms))
        if alone:
            for _, span in segments:
                self.memory.add_channels(atoms[0], keep.channel_bytes * span)
            if keep.position < self.schedule.loss_position:
                self.kept.add_channels(atoms[0], keep.channel_bytes)
            self.keep_seconds[value] = seconds
            return
        self.shared.append(
            SharedKeep(
                value,
                keep.channel_bytes,
                tuple(self.index[atom] for atom in atoms),
                self._clause(whole),
                tuple((self._clause(guard), span) for guard, span in segments),
                keep.position < self.schedule.loss_position,
            )
        )
        self.keep_seconds[value] = seconds

    # MACs.

    def _macs(self) -> tuple["_Coefficients", "_Coefficients", "_Coefficients", int]:
        input_gradient, weight_gradient, forward = _Coefficients(1), _Coefficients(1), 0
        recompute = _Coefficients(1)
        for step in self.schedule.steps:
            macs = step.macs * self.step.passes
            match step.direction:
                case Direction.FORWARD:
                    forward += macs
                case Direction.RECOMPUTE if macs and step.guard:
                    recompute.add_clause(step.guard, macs)
                    self._clause(step.guard)
                case Direction.INPUT_GRADIENT if macs and step.guard:
                    input_gradient.add_clause(step.guard, macs)
                    self._clause(step.guard)
                case Direction.WEIGHT_GRADIENT if step.channels_of:
                    weight_gradient.add_channels(step.channels_of, macs)
        return recompute, input_gradient, weight_gradient, forward

    # Time.

    def _seconds(self) -> tuple["_Coefficients | None", tuple[Floats, ...]]:
        if self.timer is None:
            return None, ()
        total = _Coefficients(1)
        by_count = [np.zeros(size + 1) for size in self.sizes]
        for step in self.schedule.steps:
            if step.direction is Direction.KEEP:
                continue
            times = 1 if step.direction is Direction.UPDATE else self.step.passes
            if step.channels_of is not None:
                index = self.index[step.channels_of]
                counts = np.arange(1.0, self.sizes[index] + 1)
                by_count[index][1:] += times * self._step_seconds(step, counts)
                continue
            (seconds,) = times * self._step_seconds(step, np.zeros(1), met=frozenset())
            optional = [a for a in step.writes if a.guard is not None]
            if step.guard is None:
                total.constant += seconds
            else:
                total.add_clause(step.guard, float(seconds))
                self._clause(step.guard)
            for access in optional:
                assert access.guard is not None
                (more,) = times * self._step_seconds(step, np.zeros(1), met=access.guard)
                total.add_clause(access.guard, float(more - seconds))
                self._clause(access.guard)
        for value, keep in self.schedule.partial_keeps.items():
            readers = {
                step.channels_of
                for _, step, access in self._readers(keep.storage)
                if access.selected_only and access.value == value and step.channels_of
            }
            if not any(shared.value == value for shared in self.shared):
                (atom,) = readers
                by_count[self.index[atom]] += self.keep_seconds[value]
        return total, tuple(by_count)

    def _step_seconds(self, step: Step, counts: Floats, met: Guard = frozenset()) -> Floats:
        """Seconds of one step; of a step restricted to channels, for each of `counts`."""
        assert self.timer is not None
        moved = np.zeros(len(counts))
        for access in (*step.reads, *step.writes):
            if access.guard is None or access.guard == met:
                moved += access.bytes * (counts if access.selected_only else 1)
        macs = step.macs * (counts if step.channels_of else np.ones(1))
        stored = [a for a in step.writes if a.guard is None or a.guard == met]
        kernel = kernel_name(
            self.schedule.graph,
            step.direction,
            step.call,
            self.step.optimizer,
            saves=len(stored) > 1,
        )
        return self.timer.operation_seconds(
            step.work_kind, str(step.direction), macs, moved, kernel=kernel
        )

    def _keep_seconds(self, position: int, most: int) -> Floats:
        seconds = np.zeros(most + 1)
        if self.timer is not None:
            counts = np.arange(1.0, most + 1)
            step = self.schedule.steps[position]
            seconds[1:] = self.step.passes * self._step_seconds(step, counts)
        return seconds


class _Coefficients:
    """Rows of coefficients being collected, by guard and by atom."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.constant = np.zeros(width)
        self.clauses: dict[Guard, Floats] = {}
        self.channels: dict[Atom, Floats] = {}

    def add_clause(self, guard: Guard, row: Floats | float) -> None:
        self.clauses[guard] = self.clauses.get(guard, np.zeros(self.width)) + row

    def add_channels(self, atom: Atom, row: Floats | float) -> None:
        self.channels[atom] = self.channels.get(atom, np.zeros(self.width)) + row


def _exclude_each_other(first: Iterable[Atom], second: Iterable[Atom]) -> bool:
    """Whether no plan has an atom of both: a layer is updated along one axis only."""
    pairs = ((a, b) for a in first for b in second)
    return all(a[1] == b[1] and {a[0], b[0]} == set(AXES) for a, b in pairs)


def _union_of_guards(readers: Iterable[tuple[int, Step, Access]]) -> Guard:
    guards = [step.guard for _, step, _ in readers if step.guard is not None]
    return frozenset().union(*guards) if guards else frozenset()


def _without_dominated_positions(table: CostTable) -> CostTable:
    """Drop the positions at which no plan can have more bytes live than at another."""
    rows = np.vstack(
        [
            table.memory.constant,
            table.memory.clauses,
            table.memory.channels,
            *(both.bytes_at for both in table.conjunctions),
            *(span for keep in table.shared_keeps for _, span in keep.segments),
        ]
    )
    _, first = np.unique(rows, axis=1, return_index=True)
    candidates = np.sort(first)
    columns = rows[:, candidates]
    keep = np.ones(len(candidates), dtype=bool)
    for i in range(len(candidates)):
        covered = (columns >= columns[:, i : i + 1]).all(axis=0) & keep
        keep[i] = covered.sum() == 1
    left = candidates[keep]
    memory = Linear(
        table.memory.constant[left], table.memory.clauses[:, left], table.memory.channels[:, left]
    )
    return replace(
        table,
        memory=memory,
        conjunctions=tuple(replace(b, bytes_at=b.bytes_at[left]) for b in table.conjunctions),
        shared_keeps=tuple(
            replace(k, segments=tuple((clause, span[left]) for clause, span in k.segments))
            for k in table.shared_keeps
        ),
    )
