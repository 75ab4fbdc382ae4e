"""Cases: some candidates opened, some closed, and the costs that are left, one candidate at a time.

In a case a clause is met if it contains an opened candidate, and not met if all of its candidates
are closed. If the others that are left of it exclude each other, it is part of what opening each of
them costs. Only where candidates that may be opened together are left is it undecided; then each
of m is charged 1/m of it, which is never more than the clause costs, so the case is relaxed until
one of them is opened or all are closed. Pairs and keeps that depend on two undecided things are
left out, which relaxes as well.

What a case costs is thus a sum over candidates: for each row

    base + sum_i fixed_i u_i + slope_i k_i  (+ seconds_i(k_i))  <=  room

of which a decided case ("`undecided` is None") has exact coefficients. In the order of execution
the first opened candidate decides every clause of a chain, because the backward pass ends there.
"""

from dataclasses import dataclass, replace

import numpy as np

from costsim.pricing.table import Floats, Integers

from .resources import Booleans, Resources


@dataclass(frozen=True)
class Case:
    """Which candidates are surely opened, and which are surely closed."""

    opened: Booleans
    closed: Booleans

    def open(self, index: int, groups: Booleans) -> "Case":
        """The case in which `index` is opened as well; whatever it excludes is closed."""
        opened, closed = self.opened.copy(), self.closed | groups[index]
        opened[index] = True
        return Case(opened, closed)

    def close(self, indices: Booleans) -> "Case":
        """The case in which `indices` are closed as well."""
        return replace(self, closed=self.closed | indices)


@dataclass(frozen=True)
class Costs:
    """Costs of a case as sums over candidates: base [R], fixed and slopes [N, R].

    `seconds` replaces those of the resources where keeps add to them. `undecided` are candidates
    of which opening one would decide more; None if nothing is left to decide.
    """

    base: Floats
    fixed: Floats
    slopes: Floats
    seconds: tuple[Floats, ...]
    undecided: Booleans | None


class Cases:
    """Cases of one set of resources."""

    def __init__(self, resources: Resources) -> None:
        self.resources = resources
        width = len(resources.sizes)
        self.width = width
        self.excludes, self.classes = resources.excludes, resources.classes
        self.class_of = resources.class_of
        self.by_class = np.argsort(self.class_of, kind="stable")
        self.class_starts = np.searchsorted(self.class_of[self.by_class], range(len(self.classes)))
        self.last = np.zeros(len(resources.clauses), dtype=bool), np.zeros(len(resources.room))
        self.weight = resources.clause_costs / np.maximum(resources.room, 1.0)

    def root(self) -> Case:
        """Nothing decided."""
        nothing = np.zeros(self.width, dtype=bool)
        return Case(nothing, nothing)

    def branch(self, case: Case, causes: Booleans) -> list[Case]:
        """Every way of having a first opened one of `causes`, in order of execution."""
        rank = self.resources.rank
        found, left = [], case
        for index in sorted(np.flatnonzero(causes).tolist(), key=rank.__getitem__):
            found.append(left.open(index, self.excludes))
            left = left.close(np.arange(self.width) == index)
        return [*found, left]

    def costs(self, case: Case) -> Costs:
        """What is left to pay for in `case`."""
        r = self.resources
        free = ~(case.opened | case.closed)
        met: Booleans = np.asarray(r.clauses[:, case.opened].any(axis=1))
        # Of a deep network most clauses are met by what is opened first, or closed with the rest.
        left = np.flatnonzero(~met)
        causes = r.clauses[left] & free
        some = causes.any(axis=1)
        left, causes = left[some], causes[some]
        parties = self._parties(causes)
        fixed = r.opening  # one array for all cases of a chain: of a deep network it is large
        if len(left):
            fixed = (causes / parties[:, None]).T @ r.clause_costs[left] + r.opening
        base = self._spent(met)
        slopes, seconds = r.slopes, list(r.seconds)
        undecided: list[tuple[float, Booleans]] = []
        several = np.flatnonzero(parties > 1)
        if len(several):
            weights = self.weight[left[several]].max(axis=1, initial=0.0)
            heaviest = several[int(np.argmax(weights))]
            undecided.append((float(weights.max()), causes[heaviest]))
        if r.keeps:
            slopes = slopes.copy()
            for keep in r.keeps:
                if case.closed[keep.candidate] or case.opened[keep.whole].any():
                    continue
                others = keep.whole & free & ~self.excludes[keep.candidate]
                if others.any():
                    undecided.append((0.0, others))
                    continue
                slopes[keep.candidate] += keep.slopes
                if r.seconds_row is not None:
                    own = seconds[keep.candidate]
                    seconds[keep.candidate] = own + keep.seconds[: len(own)]
        for pair in r.pairs:
            first, second = (self._state(case, free, part) for part in (pair.first, pair.second))
            if first is False or second is False:
                continue
            if first is True and second is True:
                base = base + pair.costs
            elif first is True or second is True:
                other = second if first is True else first
                assert not isinstance(other, bool)
                if len(set(self.class_of[other].tolist())) == 1:
                    fixed = fixed + other[:, None] * pair.costs
                else:
                    undecided.append((0.0, other))
            else:
                assert not isinstance(first, bool)
                undecided.append((0.0, first))
        most = max(undecided, key=lambda entry: entry[0])[1] if undecided else None
        return Costs(base, fixed, slopes, tuple(seconds), most)

    def _spent(self, met: Booleans) -> Floats:
        """What clauses cost of which these are met.

        Cases come one after the other with all but the same: then only what changed is looked at.
        Rows are integers, so that this is exact; but that of the seconds, which is added up anew.
        """
        r = self.resources
        before, spent = self.last
        changed = np.flatnonzero(met != before)
        if 2 * len(changed) < np.count_nonzero(met):
            spent = spent + np.where(met[changed], 1.0, -1.0) @ r.clause_costs[changed]
            if r.seconds_row is not None:
                spent[r.seconds_row] = met @ r.clause_costs[:, r.seconds_row]
        else:
            spent = met @ r.clause_costs
        self.last = met, spent
        return spent

    def _parties(self, causes: Booleans) -> Integers:
        """How many classes each row of `causes` [clauses, N] has candidates of."""
        if not len(causes):
            return np.zeros(0, dtype=np.int64)
        of_class = np.logical_or.reduceat(causes[:, self.by_class], self.class_starts, axis=1)
        parties: Integers = np.count_nonzero(of_class, axis=1)
        return parties

    @staticmethod
    def _state(case: Case, free: Booleans, members: Booleans) -> "bool | Booleans":
        """Whether a clause is met, or the candidates that would meet it."""
        if case.opened[members].any():
            return True
        left = members & free
        return left if left.any() else False
