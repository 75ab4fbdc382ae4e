"""The Lagrangian bound of a case, exactly: the linear relaxation by column generation.

An option o of a class is to open none of its candidates, or the first k channels of one. With the
gain g_o of an option and its costs a_o [R], a case asks for one option of each class c:

    maximise  sum_c g_{o(c)}   with  sum_c a_{o(c)} <= b.

With a multiplier for each row the classes come apart, and every choice of them is a bound:

    L(m) = m b + sum_c max_{o in c} (g_o - m a_o)  >=  any gain,   m >= 0.

The least of them is the value of the linear program that takes convex combinations of options

    maximise  sum_o g_o x_o  with  sum_o a_o x_o <= b,  sum_{o in c} x_o = 1,  x >= 0,

in which at most as many classes as there are tight rows mix options. It is solved by the simplex
method over the options found so far; its prices say which option of each class is best, and when
none of those is new the prices are the multipliers wanted. `L` at any price is a valid bound, so
that rounding or stopping early costs tightness and nothing else.
"""

from dataclasses import dataclass

import numpy as np

from costsim.pricing.table import Floats, Integers
from costsim.problem.problem import Problem

from .cases import Case, Costs
from .resources import Resources

TOLERANCE = 1e-11
"""Reduced cost, relative to the sum of all gains (which is 1/2 to 1), that counts as zero."""

CLOSED = -1
"""The option of a class to open nothing."""


@dataclass(frozen=True)
class Options:
    """All options to open something, candidate by candidate, in one row.

    Option `starts[i] + k - 1` is the first k channels of candidate i. Gains are scaled by a power
    of two such that they sum to 1/2 to 1.
    """

    starts: Integers
    candidate: Integers
    count: Floats
    gain: Floats
    scale: float

    @classmethod
    def of(cls, problem: Problem) -> "Options":
        """The options of `problem`."""
        sizes = np.array([c.size for c in problem.candidates])
        total = float(sum(c.cumulative[-1] for c in problem.candidates))
        scale = float(2.0 ** -np.frexp(total)[1]) if total > 0 else 1.0
        return cls(
            starts=np.concatenate([[0], np.cumsum(sizes)[:-1]]),
            candidate=np.repeat(np.arange(len(sizes)), sizes),
            count=np.concatenate([np.arange(1.0, n + 1) for n in sizes]),
            gain=np.concatenate([c.cumulative[1:] for c in problem.candidates]) * scale,
            scale=scale,
        )


@dataclass(frozen=True)
class Bound:
    """A bound on the gain of a case, and what gave it.

    `net` is `g_o - m a_o` of each option (minus infinity if the case forbids it), `best` the
    greatest of each class. `mix` are the options of each class in the linear program, with their
    shares; empty if it was not solved.
    """

    value: float
    multipliers: Floats
    net: Floats
    best: Floats
    mix: tuple[tuple[tuple[int, float], ...], ...] = ()


class Relaxation:
    """Bounds of one case."""

    def __init__(self, resources: Resources, options: Options, case: Case, costs: Costs) -> None:
        self.resources, self.options, self.case, self.costs = resources, options, case, costs
        self.room: Floats = resources.room - costs.base
        self.class_of = resources.class_of
        self.forced = np.zeros(len(resources.classes), dtype=bool)
        self.forced[self.class_of[case.opened]] = True
        # Opening any other candidate of a class than the one that is surely opened is forbidden:
        # branching closes what an opened candidate excludes.
        self.forbidden = case.closed[options.candidate]
        self.seconds: Floats | None = None
        if resources.seconds_row is not None:
            self.seconds = np.concatenate([s[1:] for s in costs.seconds])

    def feasible(self) -> bool:
        """Whether the least that the case must spend is within the room."""
        least = self.room.copy()
        for index in np.flatnonzero(self.case.opened).tolist():
            least -= self.cost(int(self.options.starts[index]))
        return bool((least >= -self.resources.slack).all())

    def costs_of(self, index: int, k: Integers) -> Floats:
        """Costs [options, R] of opening candidate `index` with `k + 1` channels."""
        costs: Floats = self.costs.fixed[index] + (k[:, None] + 1.0) * self.costs.slopes[index]
        if self.seconds is not None:
            costs[:, self.resources.seconds_row] += self.seconds[self.options.starts[index] + k]
        return costs

    def cost(self, option: int) -> Floats:
        """Costs of an option [R]."""
        if option == CLOSED:
            return np.zeros(len(self.room))
        index = int(self.options.candidate[option])
        cost: Floats = (
            self.costs.fixed[index] + self.options.count[option] * self.costs.slopes[index]
        )
        if self.seconds is not None:
            cost[self.resources.seconds_row] += self.seconds[option]
        return cost

    def at(self, multipliers: Floats) -> Bound:
        """The bound at `multipliers` [R], which are not negative."""
        options = self.options
        priced = np.flatnonzero(multipliers)  # a few rows out of one for each position
        prices = multipliers[priced]
        fixed, slopes = self.costs.fixed[:, priced] @ prices, self.costs.slopes[:, priced] @ prices
        net = options.gain - slopes[options.candidate] * options.count - fixed[options.candidate]
        if self.seconds is not None:
            net -= multipliers[self.resources.seconds_row] * self.seconds
        net[self.forbidden] = -np.inf
        by_candidate = np.maximum.reduceat(net, options.starts)
        best = np.where(self.forced, -np.inf, 0.0)
        np.maximum.at(best, self.class_of, by_candidate)
        return Bound(float(multipliers @ self.room + best.sum()), multipliers, net, best)

    def best_options(self, bound: Bound) -> list[int]:
        """The option of each class with the greatest net gain; opening nothing wins ties."""
        found = []
        for row, members in enumerate(self.resources.classes):
            if not self.forced[row] and bound.best[row] <= 0:
                found.append(CLOSED)
                continue
            for index in members:
                start = int(self.options.starts[index])
                part = bound.net[start : start + int(self.resources.sizes[index])]
                k = int(np.argmax(part))
                if part[k] == bound.best[row]:
                    found.append(start + k)
                    break
        return found

    def rows_that_bind(self) -> Integers:
        """The rows that some choice of options exceeds."""
        sizes = self.resources.sizes[:, None]
        most = self.costs.fixed + sizes * self.costs.slopes
        if self.resources.seconds_row is not None:
            most[:, self.resources.seconds_row] += [s[-1] for s in self.costs.seconds]
        most[self.case.closed] = 0.0
        total = np.zeros(len(self.room))
        for members in self.resources.classes:
            total += most[list(members)].max(axis=0)
        rows: Integers = np.flatnonzero(total > self.room)
        return rows

    def solve(self, start: Bound, below: float = -np.inf) -> Bound:
        """The least bound; stops early when it falls to `below`. `start` says where to begin."""
        rows = self.rows_that_bind()
        if not len(rows):
            free = self.at(np.zeros(len(self.room)))
            mix = tuple(((option, 1.0),) for option in self.best_options(free))
            return Bound(free.value, free.multipliers, free.net, free.best, mix)
        simplex = _Simplex(self, rows)
        best = start
        bound = start
        for _ in range(200):
            if not simplex.add(bound, self.best_options(bound)):
                break
            simplex.optimise()
            multipliers = np.zeros(len(self.room))
            multipliers[rows] = np.maximum(simplex.prices[: len(rows)], 0.0) / simplex.scale
            bound = self.at(multipliers)
            if bound.value < best.value:
                best = bound
            if best.value <= below:
                return best
        return Bound(best.value, best.multipliers, best.net, best.best, simplex.mix())


class _Simplex:
    """The linear program over the options found so far, by the primal revised simplex method.

    Rows of the basis are first the limits that can bind, then the classes. It begins with the
    cheapest option of each class and all slack. Columns are numbered likewise: the slacks, then the
    options as they are found. Of the limits few are ever tight, whatever there are: as long as the
    slack of one is in its place in the basis (`loose`) its column of the inverse is a unit vector,
    so that what a pivot takes grows with the rows and not with their square.
    """

    def __init__(self, relaxation: Relaxation, rows: Integers) -> None:
        self.relaxation, self.rows = relaxation, rows
        self.scale = np.maximum(np.abs(relaxation.room[rows]), 1e-9)
        self.limits, self.classes = len(rows), len(relaxation.forced)
        self.costs = np.zeros((0, self.limits))
        self.class_rows = np.zeros(0, dtype=np.int64)
        self.gains = np.zeros(0)
        self.known: list[tuple[int, int]] = []
        self.seen: set[tuple[int, int]] = set()
        first = []
        for row, members in enumerate(relaxation.resources.classes):
            opened = [i for i in members if relaxation.case.opened[i]]
            option = int(relaxation.options.starts[opened[0]]) if opened else CLOSED
            first.append((row, option))
        self._extend(first)
        size = self.limits + self.classes
        self.basis = list(range(size))
        self.loose = np.ones(self.limits, dtype=bool)
        self.inverse = np.zeros((size, size))
        np.fill_diagonal(self.inverse, 1.0)
        left = relaxation.room[rows] / self.scale
        for row, option in first:
            if option != CLOSED:
                self.inverse[: self.limits, self.limits + row] = -self.costs[row]
                left = left - self.costs[row]
        self.values = np.maximum(np.concatenate([left, np.ones(self.classes)]), 0.0)
        self.prices = np.zeros(size)

    def _extend(self, new: list[tuple[int, int]]) -> None:
        costs, gains = np.zeros((len(new), self.limits)), np.zeros(len(new))
        for i, (_, option) in enumerate(new):
            if option != CLOSED:
                costs[i] = self.relaxation.cost(option)[self.rows] / self.scale
                gains[i] = self.relaxation.options.gain[option]
        self.costs = np.vstack([self.costs, costs])
        self.gains = np.concatenate([self.gains, gains])
        found = np.array([self.limits + row for row, _ in new], dtype=np.int64)
        self.class_rows = np.concatenate([self.class_rows, found])
        self.known += new
        self.seen.update(new)

    def add(self, bound: Bound, options: list[int]) -> bool:
        """Take in the options that are new; whether there is one."""
        new = [(r, o) for r, o in enumerate(options) if (r, o) not in self.seen]
        if new:
            self._extend(new)
        return bool(new)

    def optimise(self) -> None:
        """Pivot until no known option has a price below its gain."""
        self._price()
        for pivots in range(1000):
            reduced = self._reduced()
            # The steepest; after many pivots the first, which cannot cycle.
            entering = int(np.argmax(reduced if pivots < 500 else reduced > TOLERANCE))
            if reduced[entering] <= TOLERANCE:
                return
            direction = self._direction(entering)
            able = direction > 1e-10
            if not able.any():
                return
            ratios = np.full(len(direction), np.inf)
            ratios[able] = self.values[able] / direction[able]
            leaving = int(np.argmin(ratios))
            step = ratios[leaving]
            self.values -= step * direction
            np.maximum(self.values, 0.0, out=self.values)
            self.values[leaving] = step
            self.prices += reduced[entering] * self._exchange(entering, leaving, direction)

    def _price(self) -> None:
        """Prices that leave every option of the basis no gain above what it costs."""
        gains = np.concatenate([np.zeros(self.limits), self.gains])[self.basis]
        paid = np.flatnonzero(gains)
        self.prices = gains[paid] @ self.inverse[paid]

    def _reduced(self) -> Floats:
        """The gain of each column less what it costs."""
        limits = self.prices[: self.limits]
        tight = np.flatnonzero(limits)
        costs = self.costs[:, tight] @ limits[tight] + self.prices[self.class_rows]
        return np.concatenate([-limits, self.gains - costs])

    def _direction(self, entering: int) -> Floats:
        """What one of a column takes of each of the basis: the inverse times that column."""
        if entering < self.limits:
            return self.inverse[:, entering].copy()
        option = entering - self.limits
        costs, tight = self.costs[option], np.flatnonzero(~self.loose)
        direction: Floats = self.inverse[:, self.class_rows[option]].copy()
        direction[: self.limits] += np.where(self.loose, costs, 0.0)
        direction += self.inverse[:, tight] @ costs[tight]
        return direction

    def _exchange(self, entering: int, leaving: int, direction: Floats) -> Floats:
        """Put a column in the place of another in the basis; its row of the inverse."""
        if leaving < self.limits:
            self.loose[leaving] = False
        row: Floats = self.inverse[leaving] / direction[leaving]
        here = np.flatnonzero(row)
        changed = np.flatnonzero(direction)
        changed = changed[changed != leaving]
        self.inverse[np.ix_(changed, here)] -= direction[changed, None] * row[here]
        self.inverse[leaving] = row
        self.basis[leaving] = entering
        return row

    def mix(self) -> tuple[tuple[tuple[int, float], ...], ...]:
        """Options with their shares, class by class."""
        shares: list[list[tuple[int, float]]] = [[] for _ in range(self.classes)]
        for column, value in zip(self.basis, self.values.tolist(), strict=True):
            if column >= self.limits and value > 1e-9:
                row, option = self.known[column - self.limits]
                shares[row].append((option, value))
        return tuple(tuple(part) for part in shares)


def rounded(relaxation: Relaxation, bound: Bound) -> Integers:
    """A selection near the linear program's: its options rounded down, then filled up.

    One option a class; within the limits if the classes that mix do so over counts of a candidate.
    """
    chosen = np.array([min(mix)[0] for mix in bound.mix])
    left = relaxation.room + relaxation.resources.slack
    for option in chosen.tolist():
        left = left - relaxation.cost(option)
    starts, sizes = relaxation.options.starts, relaxation.resources.sizes
    # Those that mix first: they are rounded down the most.
    for row in sorted(range(len(chosen)), key=lambda row: -len(bound.mix[row])):
        option = int(chosen[row])
        if option == CLOSED:
            continue
        index = int(relaxation.options.candidate[option])
        k = np.arange(option - starts[index], sizes[index])
        more = relaxation.costs_of(index, k) - relaxation.cost(option)
        fitting = int((more <= left).all(axis=1).sum())
        if fitting > 1:
            chosen[row] += fitting - 1
            left = left - more[fitting - 1]
    return chosen
