"""Coefficients while they are collected, by guard and by atom."""

from collections.abc import Mapping

import numpy as np

from costsim.ir.program import Atom, Guard
from costsim.pricing.table import Linear


class Clauses:
    """Guards, numbered in the order in which they first come up."""

    def __init__(self) -> None:
        self.numbers: dict[Guard, int] = {}

    def number(self, guard: Guard) -> int:
        """The number of `guard`, which it has from now on."""
        return self.numbers.setdefault(guard, len(self.numbers))


class Coefficients:
    """A constant, and numbers by guard and by atom: one column of a table."""

    def __init__(self, clauses: Clauses) -> None:
        self.numbered = clauses
        self.constant = 0.0
        self.clauses: dict[Guard, float] = {}
        self.channels: dict[Atom, float] = {}

    def add_clause(self, guard: Guard, more: float) -> None:
        """Add what there is if any update of `guard` is done."""
        self.clauses[guard] = self.clauses.get(guard, 0.0) + more
        self.numbered.number(guard)

    def add_channels(self, atom: Atom, more: float) -> None:
        """Add what there is for each channel of `atom` that is updated."""
        self.channels[atom] = self.channels.get(atom, 0.0) + more

    def linear(self, index: Mapping[Atom, int]) -> Linear:
        """All of it, once every clause of the table is numbered; `index` numbers the atoms."""
        clauses = np.zeros((len(self.numbered.numbers), 1))
        channels = np.zeros((len(index), 1))
        for guard, value in self.clauses.items():
            clauses[self.numbered.numbers[guard]] = value
        for atom, value in self.channels.items():
            channels[index[atom]] = value
        return Linear(np.array([self.constant]), clauses, channels)
