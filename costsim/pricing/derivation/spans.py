"""Bytes that are live from one position of a schedule to another, while they are collected.

A deep network has thousands of positions and of buffers, and each buffer is live at few of them, so
that a row of bytes for every position would be mostly zeros. What is kept is where each begins and
ends. From those alone it is seen at which positions a peak can be at all: not where the next
position, or the one before, has all that is live there. Only for the others are there rows.
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Generic, TypeVar

import numpy as np

from costsim.ir.program import Atom, Guard
from costsim.pricing.table import Floats, Integers

Key = TypeVar("Key", bound=Hashable)


class Spans(Generic[Key]):
    """Bytes by what they are multiplied by, each from a position to another, both included."""

    def __init__(self) -> None:
        self.of: dict[Key, list[tuple[int, int, float]]] = {}

    def add(self, key: Key, size: float, first: int, last: int) -> None:
        """Add `size` at the positions `first` to `last`; at none where `last` is before `first`."""
        spans = self.of.setdefault(key, [])
        if first <= last:
            spans.append((first, last, size))

    def rows(self, keys: Mapping[Key, int], at: Integers) -> Floats:
        """Bytes [keys, positions] of all `keys`, which says their rows, at the positions `at`."""
        rows = np.zeros((len(keys), len(at)))
        for key, spans in self.of.items():
            _fill(rows[keys[key]], spans, at)
        return rows

    def row(self, key: Key, at: Integers) -> Floats:
        """The bytes of one."""
        row = np.zeros(len(at))
        _fill(row, self.of[key], at)
        return row

    def changes(self) -> Iterable[Mapping[int, float]]:
        """For each key, where its bytes change, and by how much."""
        for spans in self.of.values():
            change: dict[int, float] = {}
            for first, last, size in spans:
                change[first] = change.get(first, 0.0) + size
                change[last + 1] = change.get(last + 1, 0.0) - size
            yield change


def _fill(row: Floats, spans: Iterable[tuple[int, int, float]], at: Integers) -> None:
    for first, last, size in spans:
        begin, end = np.searchsorted(at, (first, last + 1)).tolist()
        row[begin:end] += size


@dataclass
class LiveBytes:
    """All bytes of a schedule of so many `positions`.

    They are there in any case, while a clause is met, for each channel of an atom, while both
    clauses of a pair are met (their numbers), or for each channel that readers of a value share,
    in so many segments: see `SharedKeep`.
    """

    positions: int
    always: Spans[None] = field(default_factory=Spans)
    clauses: Spans[Guard] = field(default_factory=Spans)
    channels: Spans[Atom] = field(default_factory=Spans)
    pairs: Spans[tuple[int, int]] = field(default_factory=Spans)
    shared: Spans[tuple[str, int]] = field(default_factory=Spans)

    @property
    def _all(self) -> tuple[Spans[Any], ...]:
        return self.always, self.clauses, self.channels, self.pairs, self.shared

    def varying_rows(self, at: Integers) -> Floats:
        """Rows [R, positions] of all that is not live everywhere alike, at the positions `at`."""
        everywhere = 0, self.positions - 1
        found = [
            (spans, key)
            for spans in self._all
            for key, parts in spans.of.items()
            if any((first, last) != everywhere for first, last, _ in parts)
        ]
        rows = np.zeros((len(found), len(at)))
        for row, (spans, key) in zip(rows, found, strict=True):
            _fill(row, spans.of[key], at)
        return rows

    def summits(self) -> Integers:
        """The positions beside which nothing covers them: of equal neighbours the first.

        A neighbour covers a position if no row has fewer bytes at it. The greatest of a table are
        among these, since what covers a position is covered by one of them or is one.
        """
        rises = np.zeros(self.positions + 1, dtype=bool)
        falls = np.zeros(self.positions + 1, dtype=bool)
        for change in chain.from_iterable(spans.changes() for spans in self._all):
            for position, size in change.items():
                rises[position] |= size > 0
                falls[position] |= size < 0
        below_next = rises[1:] & ~falls[1:]
        below_next[-1:] = False
        below_last = ~rises[:-1]
        below_last[:1] = False
        found: Integers = np.flatnonzero(~(below_next | below_last))
        return found
