"""A schedule with what is asked of it again and again: who reads a storage, and when."""

from collections.abc import Iterable, Sequence

from costsim.ir.program import AXES, Atom, Category, Guard, Schedule, Step
from costsim.ir.program.guards import union
from costsim.ir.program.schedule import Access
from costsim.ir.step import TrainingStep

Reader = tuple[int, Step, Access]
"""Position, step and access of one reading."""


class Scheduled:
    """A schedule under a training step. `index` numbers the atoms, `sizes` are their channels."""

    def __init__(self, schedule: Schedule, step: TrainingStep) -> None:
        self.schedule, self.step = schedule, step
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
        self._readers: dict[str, list[Reader]] = {}
        self.written_at: dict[str, int] = {}
        for position, scheduled in enumerate(schedule.steps):
            for access in scheduled.reads:
                self._readers.setdefault(access.storage, []).append((position, scheduled, access))
            for access in scheduled.writes:
                self.written_at.setdefault(access.storage, position)

    def readers(self, storage: str) -> list[Reader]:
        """Who reads a storage, in order."""
        return self._readers.get(storage, [])

    def whole_guard(self, storage: str) -> Guard:
        """The updates for which a storage is kept whole."""
        return union_of_guards(
            reader
            for reader in self.readers(storage)
            if reader[2].keeps and not reader[2].selected_only
        )

    def keep_guard(self, kept: Access) -> Guard:
        """The updates for which channels of a value are kept."""
        return frozenset(
            step.channels_of
            for _, step, access in self.readers(kept.storage)
            if access.keeps and access.selected_only and access.value == kept.value
            if step.channels_of is not None
        )

    def part_readers(self, value: str) -> list[tuple[int, Atom]]:
        """Positions and atoms that read kept channels of a value alone."""
        keep = self.schedule.partial_keeps[value]
        return [
            (position, step.channels_of)
            for position, step, access in self.readers(keep.storage)
            if access.selected_only and access.value == value and step.channels_of is not None
        ]


def union_of_guards(readers: Iterable[Reader]) -> Guard:
    """The updates for which any of `readers` is there."""
    return union(step.guard for _, step, _ in readers if step.guard is not None)


def still_to_come(readers: Sequence[Reader]) -> list[tuple[int, Guard]]:
    """The positions of `readers`, which are in order: for which updates one is there from it on."""
    found: dict[int, Guard] = {}
    later: Guard = frozenset()
    for position, step, _ in reversed(readers):
        later = union([later, step.guard or frozenset()])
        found[position] = later
    return list(reversed(found.items()))


def exclude_each_other(first: Iterable[Atom], second: Iterable[Atom]) -> bool:
    """Whether no plan has an atom of both: a layer is updated along one axis only."""
    pairs = ((a, b) for a in first for b in second)
    return all(a[1] == b[1] and {a[0], b[0]} == set(AXES) for a, b in pairs)
