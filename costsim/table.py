"""The cost of every plan at once: coefficient tables derived from the schedule.

A plan is a row of counts, one column an atom: how many channels of a layer it updates along one
axis, or whether it updates a bias. Every cost of the training program is then

    constant + clauses · [clause met] + channels · count + a few products

where a clause is a set of atoms and is met when one of them is in the plan. Memory has one such
row for each position of the program, and the peak is the greatest. The tables give, to the byte
and to the MAC, what compiling the plan and reading the program gives; a solver can put the
coefficients into constraints, and thousands of plans are priced in one matrix product.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from costsim.graph import LayerGraph
from costsim.plan import UpdatePlan
from costsim.program.compile import plan_atoms
from costsim.program.schedule import (
    AXES,
    Access,
    Atom,
    Category,
    Direction,
    Guard,
    Schedule,
    Step,
    Storage,
    build_schedule,
)
from costsim.step import TrainingStep

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


class OperationTimer(Protocol):
    """What can say how long an operation takes, in seconds; arrays in, arrays out."""

    def operation_seconds(
        self, work_kind: str, direction: str, macs: Floats, moved_bytes: Floats
    ) -> Floats: ...


@dataclass(frozen=True)
class Linear:
    """`constant + clauses · met + channels · count`: one value a plan, or one a position.

    `clauses` is [number of clauses, positions], `channels` [number of atoms, positions].
    """

    constant: Floats
    clauses: Floats
    channels: Floats

    def __call__(self, met: NDArray[np.bool_], counts: Integers) -> Floats:
        """Values [plans, positions] of `met` [plans, clauses] and `counts` [plans, atoms]."""
        values: Floats = self.constant + met @ self.clauses + counts @ self.channels
        return values


@dataclass(frozen=True)
class Conjunction:
    """Bytes at some positions while both of two clauses are met."""

    first: int
    second: int
    bytes_at: Floats


@dataclass(frozen=True)
class SharedKeep:
    """A value of which several layers may keep channels, or that may be kept whole instead.

    `across_loss`: kept from the first forward pass, not only from a recomputed one. Live at the
    positions of `segments` while their clause is met: `channel_bytes` for each
    channel in the union of what its readers select, unless the clause `whole` is met.
    """

    value: str
    channel_bytes: int
    readers: tuple[int, ...]
    whole: int
    segments: tuple[tuple[int, Floats], ...]
    across_loss: bool


@dataclass(frozen=True)
class PlanCosts:
    """Costs of many plans; each an array with one entry a plan. MACs and seconds are of a step."""

    peak_bytes: Integers
    kept_bytes: Integers
    gradient_bytes: Integers
    optimizer_bytes: Integers
    updated_weight_bytes: Integers
    recompute_macs: Integers
    input_gradient_macs: Integers
    weight_gradient_macs: Integers
    step_s: Floats | None

    @property
    def paper_bytes(self) -> Integers:
        """The `paper` accounting: updated weights, gradients, optimiser, kept activations."""
        return (
            self.updated_weight_bytes + self.gradient_bytes + self.optimizer_bytes + self.kept_bytes
        )

    @property
    def backward_macs(self) -> Integers:
        """MACs of the backward pass, recomputation included."""
        return self.recompute_macs + self.input_gradient_macs + self.weight_gradient_macs


@dataclass(frozen=True)
class CostTable:
    """Coefficients of every cost of one graph and one way of stepping.

    `orders` gives, for each atom, its channels in the order in which they are taken: a count of
    k stands for the first k. `count_seconds[atom]` are the seconds that depend on the atom's
    count, for 0 to all of its channels.
    """

    atoms: tuple[Atom, ...]
    sizes: tuple[int, ...]
    orders: tuple[tuple[int, ...], ...]
    clauses: tuple[Guard, ...]
    membership: NDArray[np.bool_]
    memory: Linear
    conjunctions: tuple[Conjunction, ...]
    shared_keeps: tuple[SharedKeep, ...]
    kept: Linear
    gradients: Linear
    optimizer: Linear
    updated_weights: Linear
    recompute: Linear
    input_gradient: Linear
    weight_gradient: Linear
    forward_macs: int
    seconds: Linear | None
    count_seconds: tuple[Floats, ...]
    keep_seconds: Mapping[str, Floats]

    def index(self, atom: Atom) -> int:
        """Column of an atom; raises `KeyError`."""
        return self._indices[atom]

    @property
    def _indices(self) -> dict[Atom, int]:
        return {atom: i for i, atom in enumerate(self.atoms)}

    def counts(self, plans: Iterable[UpdatePlan]) -> Integers:
        """Counts [plans, atoms]. Which channels a plan selects is lost unless `orders` says so."""
        indices = self._indices
        rows = []
        for plan in plans:
            row = np.zeros(len(self.atoms), dtype=np.int64)
            for atom, channels in plan_atoms(plan).items():
                row[indices[atom]] = len(channels)
            rows.append(row)
        return np.array(rows).reshape(len(rows), len(self.atoms))

    def price(self, counts: Integers) -> PlanCosts:
        """Costs of the plans in the rows of `counts` [plans, atoms]."""
        return self._price(counts, [self._union(keep, counts) for keep in self.shared_keeps])

    def price_plan(self, plan: UpdatePlan) -> PlanCosts:
        """Costs of one plan, whichever channels it selects."""
        atoms = plan_atoms(plan)
        unions = [
            np.array([len(set().union(*(atoms.get(self.atoms[r], ()) for r in keep.readers)))])
            for keep in self.shared_keeps
        ]
        return self._price(self.counts([plan]), unions)

    def _union(self, keep: SharedKeep, counts: Integers) -> Integers:
        """Channels in the union of the readers' first `count` channels."""
        if len(keep.readers) == 1:
            single: Integers = counts[:, keep.readers[0]]
            return single
        chosen = np.zeros((len(counts), max(self.sizes[r] for r in keep.readers)), dtype=bool)
        for reader in keep.readers:
            rank = np.argsort(np.array(self.orders[reader]))
            chosen[:, : len(rank)] |= rank < counts[:, reader, None]
        union: Integers = chosen.sum(axis=1)
        return union

    def _price(self, counts: Integers, unions: Sequence[Integers]) -> PlanCosts:
        met = (counts > 0).astype(np.float64) @ self.membership.T > 0
        live = self.memory(met, counts)
        kept = self.kept(met, counts)[:, 0]
        for both in self.conjunctions:
            live += (met[:, both.first] & met[:, both.second])[:, None] * both.bytes_at
        seconds = None if self.seconds is None else self.seconds(met, counts)[:, 0]
        for keep, union in zip(self.shared_keeps, unions, strict=True):
            partial = union * ~met[:, keep.whole]
            kept += keep.channel_bytes * partial * keep.across_loss
            for clause, positions in keep.segments:
                live += (keep.channel_bytes * partial * met[:, clause])[:, None] * positions
            if seconds is not None:
                seconds += self.keep_seconds[keep.value][partial]
        if seconds is not None:
            for atom, lookup in enumerate(self.count_seconds):
                seconds += lookup[counts[:, atom]]
        return PlanCosts(
            peak_bytes=_whole(live.max(axis=1)),
            kept_bytes=_whole(kept),
            gradient_bytes=_whole(self.gradients(met, counts)[:, 0]),
            optimizer_bytes=_whole(self.optimizer(met, counts)[:, 0]),
            updated_weight_bytes=_whole(self.updated_weights(met, counts)[:, 0]),
            recompute_macs=_whole(self.recompute(met, counts)[:, 0]),
            input_gradient_macs=_whole(self.input_gradient(met, counts)[:, 0]),
            weight_gradient_macs=_whole(self.weight_gradient(met, counts)[:, 0]),
            step_s=seconds,
        )


def _whole(values: Floats) -> Integers:
    """Exact: every coefficient and every sum is an integer far below 2^53."""
    return np.rint(values).astype(np.int64)


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
        return self.timer.operation_seconds(step.work_kind, str(step.direction), macs, moved)

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
