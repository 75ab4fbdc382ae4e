"""The bytes of a table: what is live at each position, and kept for the backward pass."""

from collections.abc import Sequence
from dataclasses import dataclass

from costsim.ir.program import Category, Direction, Guard
from costsim.ir.program.schedule import Storage
from costsim.pricing.derivation.coefficients import Clauses, Coefficients
from costsim.pricing.derivation.schedule_index import (
    Reader,
    Scheduled,
    exclude_each_other,
    still_to_come,
    union_of_guards,
)
from costsim.pricing.derivation.spans import LiveBytes
from costsim.pricing.table import Conjunction, Integers, Linear, SharedKeep


@dataclass(frozen=True)
class Shared:
    """A value of which several layers may keep channels: a `SharedKeep` but for its positions.

    `segments` are the numbers of their clauses.
    """

    value: str
    channel_bytes: int
    readers: tuple[int, ...]
    whole: int
    segments: tuple[int, ...]
    across_loss: bool


class MemoryRows:
    """Collects them, storage by storage."""

    def __init__(self, of: Scheduled, clauses: Clauses) -> None:
        self.of, self.clauses = of, clauses
        self.live = LiveBytes(of.positions)
        self.kept = Coefficients(clauses)
        self.shared: list[Shared] = []
        self._persistent()
        for storage in of.schedule.storages.values():
            if storage.category in (Category.INPUT, Category.ACTIVATION):
                self._activation(storage)
            elif storage.category in (Category.SAVED, Category.GRADIENT):
                self._guarded(storage)
        for value in of.schedule.partial_keeps:
            self._partial_keep(value)

    def memory(self, at: Integers) -> Linear:
        """What is live at the positions `at`, once every clause of the table is numbered."""
        return Linear(
            self.live.always.row(None, at),
            self.live.clauses.rows(self.clauses.numbers, at),
            self.live.channels.rows(self.of.index, at),
        )

    def conjunctions(self, at: Integers) -> tuple[Conjunction, ...]:
        """Bytes that are live there only if an update of each of two clauses is done."""
        pairs = self.live.pairs
        return tuple(Conjunction(*both, pairs.row(both, at)) for both in pairs.of)

    def shared_keeps(self, at: Integers) -> tuple[SharedKeep, ...]:
        """Values of which several layers may keep channels, live there."""
        return tuple(
            SharedKeep(
                keep.value,
                keep.channel_bytes,
                keep.readers,
                keep.whole,
                tuple(
                    (clause, self.live.shared.row((keep.value, number), at))
                    for number, clause in enumerate(keep.segments)
                ),
                keep.across_loss,
            )
            for keep in self.shared
        )

    def of_category(self, category: Category) -> Coefficients:
        """The bytes of one category, which come by the channel."""
        total = Coefficients(self.clauses)
        for storage in self.of.schedule.storages.values():
            if storage.category is category and storage.channels_of is not None:
                total.add_channels(storage.channels_of, storage.bytes)
        return total

    def _persistent(self) -> None:
        everywhere = 0, self.of.positions - 1
        for storage in self.of.schedule.storages.values():
            size = storage.bytes
            match storage.category:
                case Category.UPDATED_WEIGHTS | Category.OPTIMIZER:
                    assert storage.channels_of is not None
                    self.live.channels.add(storage.channels_of, size, *everywhere)
                case Category.WEIGHT_GRADIENT:
                    assert storage.channels_of is not None
                    span = everywhere
                    if self.of.step.passes == 1:
                        last = self.of.readers(storage.name)[-1][0]
                        span = self.of.written_at[storage.name], last
                    self.live.channels.add(storage.channels_of, size, *span)

    def _activation(self, storage: Storage) -> None:
        """Live through the forward pass; after it, while something that needs it is to come."""
        readers = self.of.readers(storage.name)
        backward = [reader for reader in readers if reader[2].keeps]
        forward = [reader for reader in readers if not reader[2].keeps]
        birth = 0 if storage.category is Category.INPUT else self.of.written_at[storage.name]
        end = max((position for position, _, _ in forward), default=birth)
        if storage.in_place_at is not None:
            end = storage.in_place_at - 1
        whole = self.of.whole_guard(storage.name)
        if storage.guard is None:
            self.live.always.add(None, storage.bytes, birth, end)
        else:
            self._computed_again(storage, forward, birth, end, whole)
        if not whole:
            return
        if storage.guard is None:
            self.kept.add_clause(whole, storage.bytes)
        self.clauses.number(whole)
        start = end + 1
        for position in sorted({position for position, _, _ in backward}):
            later = [reader for reader in backward if reader[0] >= position]
            needs_whole = union_of_guards(r for r in later if not r[2].selected_only)
            needs_part = union_of_guards(r for r in later if r[2].selected_only)
            span = storage.bytes, start, position
            self._live_while(whole, needs_whole, needs_part, span)
            start = position + 1

    def _computed_again(
        self,
        storage: Storage,
        forward: Sequence[Reader],
        birth: int,
        end: int,
        whole: Guard,
    ) -> None:
        """An activation of a second pass: live while that pass or a gradient has yet to read it."""
        assert storage.guard is not None
        self._add_clause(storage.guard, storage.bytes, birth, birth)
        start = birth + 1
        for position in sorted({min(position, end) for position, _, _ in forward} | {end}):
            later = whole
            for at, step, access in forward:
                if min(at, end) >= position:
                    is_keep = step.direction is Direction.KEEP
                    later |= self.of.keep_guard(access) if is_keep else (step.guard or later)
            if later and position >= start:
                self._add_clause(later, storage.bytes, start, position)
            start = position + 1

    def _add_clause(self, guard: Guard, size: int, first: int, last: int) -> None:
        """Add what is live if any update of `guard` is done, which has a number from now on."""
        self.live.clauses.add(guard, size, first, last)
        self.clauses.number(guard)

    def _live_while(
        self, whole: Guard, needs_whole: Guard, needs_part: Guard, span: tuple[int, int, int]
    ) -> None:
        """Add bytes that are live while the storage is kept whole and a reader is to come.

        `span` says how many, from where and to where.

        A reader of some channels alone matters only if it can be in a plan together with a
        reader of the whole: not if both are the two axes of one layer.
        """
        if exclude_each_other(whole, needs_part):
            if needs_whole:
                self._add_clause(needs_whole, *span)
            return
        key = self.clauses.number(whole), self.clauses.number(needs_whole | needs_part)
        self.live.pairs.add(key, *span)

    def _guarded(self, storage: Storage) -> None:
        """A saved buffer or a gradient: live from its first writing to its last active reader."""
        start = self.of.written_at[storage.name]
        readers = self.of.readers(storage.name)
        if storage.channels_of is not None:
            last = max(position for position, _, _ in readers)
            self.live.channels.add(storage.channels_of, storage.bytes, start, last)
            return
        if storage.category is Category.SAVED and start < self.of.schedule.loss_position:
            guard = union_of_guards(readers)
            self.kept.add_clause(guard, storage.bytes)
        for position, guard in still_to_come(readers):
            self._add_clause(guard, storage.bytes, start, position)
            start = position + 1

    def _partial_keep(self, value: str) -> None:
        keep = self.of.schedule.partial_keeps[value]
        readers = self.of.part_readers(value)
        atoms = sorted({atom for _, atom in readers}, key=self.of.index.__getitem__)
        whole = self.of.whole_guard(keep.storage)
        alone = len(atoms) == 1 and exclude_each_other(whole, atoms)
        start, segments = keep.position, []
        for position in sorted({position for position, _ in readers}):
            guard: Guard = frozenset(atom for at, atom in readers if at >= position)
            segments.append((guard, start, position))
            start = position + 1
        if alone:
            for _, *span in segments:
                self.live.channels.add(atoms[0], keep.channel_bytes, *span)
            if keep.position < self.of.schedule.loss_position:
                self.kept.add_channels(atoms[0], keep.channel_bytes)
            return
        for number, (_, first, last) in enumerate(segments):
            self.live.shared.add((value, number), 1, first, last)
        self.shared.append(
            Shared(
                value,
                keep.channel_bytes,
                tuple(self.of.index[atom] for atom in atoms),
                self.clauses.number(whole),
                tuple(self.clauses.number(guard) for guard, _, _ in segments),
                keep.position < self.of.schedule.loss_position,
            )
        )
