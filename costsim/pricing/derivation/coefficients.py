"""Rows of coefficients while they are collected, by guard and by atom."""

from collections.abc import Mapping

import numpy as np

from costsim.ir.program import Atom, Guard
from costsim.pricing.table import Floats, Linear


class Clauses:
    """Guards, numbered in the order in which they first come up."""

    def __init__(self) -> None:
        self.numbers: dict[Guard, int] = {}

    def number(self, guard: Guard) -> int:
        """The number of `guard`, which it has from now on."""
        return self.numbers.setdefault(guard, len(self.numbers))


class Coefficients:
    """A constant row, and rows by guard and by atom, all of `width` columns."""

    def __init__(self, clauses: Clauses, width: int = 1) -> None:
        self.numbered, self.width = clauses, width
        self.constant = np.zeros(width)
        self.clauses: dict[Guard, Floats] = {}
        self.channels: dict[Atom, Floats] = {}

    def add_clause(self, guard: Guard, row: Floats | float) -> None:
        """Add what there is if any update of `guard` is done."""
        self.clauses[guard] = self.clauses.get(guard, np.zeros(self.width)) + row
        self.numbered.number(guard)

    def add_channels(self, atom: Atom, row: Floats | float) -> None:
        """Add what there is for each channel of `atom` that is updated."""
        self.channels[atom] = self.channels.get(atom, np.zeros(self.width)) + row

    def linear(self, index: Mapping[Atom, int]) -> Linear:
        """All of it, once every clause of the table is numbered; `index` numbers the atoms."""
        clauses = np.zeros((len(self.numbered.numbers), self.width))
        channels = np.zeros((len(index), self.width))
        for guard, row in self.clauses.items():
            clauses[self.numbered.numbers[guard]] += row
        for atom, row in self.channels.items():
            channels[index[atom]] += row
        return Linear(self.constant, clauses, channels)
