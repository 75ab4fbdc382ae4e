"""Classes combined into one whose options are the selections of them that can be of use.

The rows of the peak are alike: each channel costs its kept activations in all of them, and more in
the few in which its own gradient is alive. A class that costs all rows of a group alike (but for a
constant) cannot tell them apart, and neither can several of them together; a state that has chosen
in all other classes needs of a group only the least room that a row of it leaves. So the classes
are split in two, as Horowitz and Sahni (1974) do: those that tell rows apart come first, the others
are combined beforehand, into options with one cost for each group. With a single group the options
that no other one dominates are few, increase in both cost and gain, and the best that fits is found
by bisection. With several, all that leave little enough empty are looked at.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from costsim.pricing.table import Floats, Integers

from .dominance import undominated

MOST = 300_000
"""Selections of combined classes that are compared with one another."""

FEW = 16
"""Selections that are handed on at a time: more than one, should rounding forbid the best."""

PAIRS = 1 << 20
"""Pairs of a state and an option that are looked at together, about."""

SEVERAL = 8.0
"""How much more there is to do for a state if the options have several costs, about."""

BINS = 256
"""Of a histogram of losses, from which the number of selections is estimated."""


@dataclass(eq=False)
class Level:
    """The options of one class that lose little enough: loss [O], costs [O, R]."""

    row: int
    options: Integers
    loss: Floats
    costs: Floats


class Combined:
    """The selections of `levels` that lose at most `most`, dominated ones left out.

    Levels of which there would be too many are left out: `levels` says which are in.

    `groups` [R] says which group each row of the costs is in. There may be no levels: then there is
    one selection, which costs nothing.
    """

    def __init__(
        self, levels: Sequence[Level], groups: Integers, price: Floats, most: float
    ) -> None:
        self.levels: tuple[Level, ...] = ()
        self.groups, self.price = groups, price
        self.count = int(groups.max()) + 1 if len(groups) else 0
        self.prices = np.array([price[groups == g].sum() for g in range(self.count)])
        self.fixed = np.zeros(len(price))
        self.loss, self.costs = np.zeros(1), np.zeros((1, self.count))
        self.options: Integers = np.zeros((1, 0), dtype=np.int64)
        first = [int(np.argmax(groups == g)) for g in range(self.count)]
        for level in levels:
            # States are in the order of their loss, so that those of an option are the first ones.
            counts = np.searchsorted(self.loss, most - level.loss, side="right").tolist()
            if self.levels and sum(counts) > MOST:
                continue
            self.levels = (*self.levels, level)
            costs = (level.costs - level.costs[:1])[:, first]
            self.fixed = self.fixed + level.costs[0]
            parent = np.concatenate([np.arange(n) for n in counts])
            option = np.repeat(np.arange(len(counts)), counts)
            loss = self.loss[parent] + level.loss[option]
            together = self.costs[parent] + costs[option]
            left = undominated(together, together @ self.prices - loss)
            left = left[np.argsort(loss[left], kind="stable")]
            parent, option = parent[left], option[left]
            self.loss, self.costs = loss[left], together[left]
            new = level.options[option, None]
            self.options = np.hstack([self.options[parent], new])
        self._sort()

    def _sort(self) -> None:
        """In the order of the cost that tells the options apart best."""
        if not self.count:
            best = np.argsort(self.loss, kind="stable")[:1]
            self.loss, self.costs, self.options = (
                self.loss[best],
                self.costs[best],
                self.options[best],
            )
            return
        told = self.costs.std(axis=0) * self.prices
        self.key = int(np.argmax(told))
        order = np.argsort(self.costs[:, self.key], kind="stable")
        self.loss, self.costs, self.options = (
            self.loss[order],
            self.costs[order],
            self.options[order],
        )

    def completed(
        self, left: Floats, loss: Floats, most: Callable[[], float]
    ) -> Iterator[tuple[Integers, Integers]]:
        """Selections for states that leave `left` [S, R] and have lost `loss` [S].

        States and options [., levels]: within the limits, losing at most `most()`, the best of
        those there are among them, and the best first.
        """
        room = left - self.fixed
        if not self.count:
            best = _best(loss + self.loss[0], most())
            yield best, self.options[np.zeros(len(best), dtype=np.int64)]
            return
        needed = np.stack(
            [room[:, self.groups == g].min(axis=1) for g in range(self.count)], axis=1
        )
        last = np.searchsorted(self.costs[:, self.key], needed[:, self.key], side="right")
        if self.count == 1:
            # Undominated in one row: the dearest that fits is the best.
            which = np.flatnonzero(last > 0)
            taken = last[which] - 1
            rest = room[which] - self.costs[taken]
            lost = loss[which] + self.loss[taken] + rest @ self.price
            able = _best(lost, most())
            yield which[able], self.options[taken[able]]
            return
        spare = (most() - loss - self.loss.min()) / max(float(self.prices[self.key]), 1e-300)
        least = needed[:, self.key] - np.maximum(spare, 0.0)
        start = np.searchsorted(self.costs[:, self.key], least, side="left")
        counts = np.where(spare < 0, 0, np.maximum(last - start, 0))
        ends = np.cumsum(counts)
        at = 0
        while at < len(counts):
            done = int(ends[at - 1]) if at else 0
            upto = max(at + 1, int(np.searchsorted(ends, done + PAIRS, side="right")))
            part = counts[at:upto]
            which = np.repeat(np.arange(at, upto), part)
            offset = np.repeat(np.cumsum(part) - part, part)
            taken = np.arange(len(which)) - offset + start[which]
            able = np.flatnonzero(loss[which] + self.loss[taken] <= most())
            which, taken = which[able], taken[able]
            fits = (self.costs[taken] <= needed[which]).all(axis=1)
            which, taken = which[fits], taken[fits]
            rest = room[which] - self.costs[taken][:, self.groups]
            lost = loss[which] + self.loss[taken] + rest @ self.price
            able = _best(lost, most())
            yield which[able], self.options[taken[able]]
            at = upto


def _best(lost: Floats, most: float) -> Integers:
    """Indices of the least of `lost` that are at most `most`, the least first; a few of them."""
    able = np.flatnonzero(lost <= most)
    if len(able) > FEW:
        able = able[np.argpartition(lost[able], FEW)[:FEW]]
    best: Integers = able[np.argsort(lost[able], kind="stable")]
    return best


def combine(levels: list[Level], price: Floats, most: float) -> tuple[list[Level], Combined]:
    """The levels to choose in first, and the others combined."""
    first, last, groups = _split(levels, price, most)
    combined = Combined(last, groups, price, most)
    first += [level for level in last if level not in combined.levels]
    return sorted(first, key=lambda level: len(level.options)), combined


def _split(
    levels: list[Level], price: Floats, most: float
) -> tuple[list[Level], list[Level], Integers]:
    """Levels to choose in first and levels to combine, and the groups of rows of the latter.

    Of the ways of grouping the rows that some class suggests, the one with the fewest selections
    to look at.
    """
    partitions = [alike(level.costs) for level in levels]
    finest = np.arange(len(price))
    tried = {tuple(groups.tolist()): groups for groups in [*partitions, finest]}
    best: tuple[float, list[Level], list[Level], Integers] | None = None
    for groups in tried.values():
        able = [_coarser(partition, groups) for partition in partitions]
        last = [level for level, one in zip(levels, able, strict=True) if one]
        first = [level for level, one in zip(levels, able, strict=True) if not one]
        priced = len({g for g, m in zip(groups.tolist(), price.tolist(), strict=True) if m > 0})
        if priced > 1:
            # Where dominance helps little, halves of equal size.
            last.sort(key=lambda level: len(level.options))
            while last and _selections(last, most) > _selections(first, most):
                first.append(last.pop())
            work = 4.0 * (_selections(first, most) + _selections(last, most))
        else:
            work = _selections(first, most) * (1.0 if groups.max(initial=0) == 0 else SEVERAL)
        if best is None or work < best[0]:
            best = work, first, last, groups
    assert best is not None
    return best[1], best[2], best[3]


def alike(costs: Floats) -> Integers:
    """Groups of rows [R] that the options of a class cost the same but for a constant."""
    if len(costs) < 2:
        return np.zeros(costs.shape[1], dtype=np.int64)
    above = np.ascontiguousarray((costs - costs[:1]).T) + 0.0  # which makes -0.0 one with 0.0
    return _numbered([row.tobytes() for row in above])


def both(first: Integers, second: Integers) -> Integers:
    """Groups of rows that are together in both."""
    return _numbered(list(zip(first.tolist(), second.tolist(), strict=True)))


def _numbered(keys: Sequence[Hashable]) -> Integers:
    """Groups of equal keys, by the order of their first rows: equal partitions are equal arrays."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def _coarser(coarse: Integers, fine: Integers) -> bool:
    """Whether every group of `fine` is within one of `coarse`."""
    return all(len(set(coarse[fine == g].tolist())) == 1 for g in set(fine.tolist()))


def _selections(levels: Sequence[Level], most: float) -> float:
    """About how many selections of `levels` lose at most `most`."""
    if most <= 0:
        return 1.0
    histogram = np.zeros(BINS + 1)
    histogram[0] = 1.0
    for level in levels:
        bins = np.minimum(level.loss / most * BINS, BINS).astype(np.int64)
        histogram = np.convolve(histogram, np.bincount(bins, minlength=BINS + 1))[: BINS + 1]
    return float(histogram.sum())
