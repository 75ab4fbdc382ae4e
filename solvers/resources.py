"""What a solver needs to know of the costs: every limit as a row over the candidates alone.

With u_i in {0, 1} whether candidate i is opened and k_i its count, a selection is within row r if

    sum_c C_cr [some candidate of c is opened] + sum_i (O_ir u_i + S_ir k_i) + t_r(k) + w_r  <=  R_r

where C is what clauses cost, O what opening a candidate costs besides (its bias), S what each
channel costs, R the limit less what is spent in any case; t_r, in the row of the seconds alone, is
a sum of functions of one count each. w_r collects the few terms that are products of two unknowns:
a pair of clauses both of which must be met, and the channels that a candidate keeps of a value
unless the whole of it is kept for another.

Candidates that exclude each other form classes, of each of which one at most is opened; where an
exclusive group reaches over classes, a row `sum u_i <= 1` says so.

The peak has a row for each position of the step. Rows that no selection can exceed and rows that
another row implies are left out, and clauses with the same candidates are added up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from costsim.pricing.accounting import OF_LIVE_BYTES
from costsim.pricing.derivation.dominance import undominated_columns
from costsim.pricing.table import Floats, Integers, Linear
from costsim.problem.problem import ROUNDING, Problem

Booleans = NDArray[np.bool_]

PEAKS = "positions of peaks"
"""Under this name a problem keeps the positions at which a plan can have its peak."""

SECONDS = "seconds"
"""The name of the row of the seconds."""


@dataclass(frozen=True)
class Pair:
    """A cost in each row while a candidate of `first` and one of `second` is opened."""

    first: Booleans
    second: Booleans
    costs: Floats


@dataclass(frozen=True)
class Keep:
    """What `candidate` adds to each row by a channel unless one of `whole` is opened.

    `seconds[k]` is what k channels add to the row of the seconds.
    """

    candidate: int
    whole: Booleans
    slopes: Floats
    seconds: Floats


@dataclass(frozen=True)
class Resources:
    """Limits as rows, see the module: N candidates, C clauses, R rows.

    `excludes[i, j]` says that i and j may not both be opened; `classes` are sets of candidates
    that all exclude each other. `rank[i]` is candidate i's place in the order of execution.
    `seconds[i][k]` goes into the row `seconds_row`, if there is one; `limit_s` is the limit itself,
    which rounding is relative to.
    """

    rows: tuple[str, ...]
    room: Floats
    clauses: Booleans
    clause_costs: Floats
    opening: Floats
    slopes: Floats
    pairs: tuple[Pair, ...]
    keeps: tuple[Keep, ...]
    seconds_row: int | None
    seconds: tuple[Floats, ...]
    limit_s: float
    sizes: Integers
    excludes: Booleans
    classes: tuple[tuple[int, ...], ...]
    rank: tuple[int, ...]

    @cached_property
    def slack(self) -> Floats:
        """Rounding allowed in each row: none where all is integer, little for seconds."""
        slack = np.zeros(len(self.room))
        if self.seconds_row is not None:
            slack[self.seconds_row] = ROUNDING * self.limit_s
        return slack

    @cached_property
    def class_of(self) -> Integers:
        """The class of each candidate [N]."""
        of = np.empty(len(self.sizes), dtype=np.int64)
        for row, members in enumerate(self.classes):
            of[list(members)] = row
        return of

    def fits(self, selections: Integers) -> Booleans:
        """Whether each row of `selections` [plans, N] is within all limits, one axis a layer."""
        within: Booleans = np.all(self.usage(selections) <= self.room + self.slack, axis=1)
        for members in self.classes:
            if len(members) > 1:
                within &= (selections[:, list(members)] > 0).sum(axis=1) <= 1
        return within

    def usage(self, selections: Integers) -> Floats:
        """What each row of `selections` [plans, N] takes of each resource: [plans, R]."""
        opened = selections > 0
        some = np.flatnonzero(opened.any(axis=0))
        met = opened[:, some].astype(float) @ self.clauses[:, some].T > 0
        used: Floats = met @ self.clause_costs
        used += opened @ self.opening + selections @ self.slopes
        for pair in self.pairs:
            both = np.minimum(*(opened[:, part].sum(axis=1) for part in (pair.first, pair.second)))
            used += np.minimum(both, 1)[:, None] * pair.costs
        for keep in self.keeps:
            partial = selections[:, keep.candidate] * ~opened[:, keep.whole].any(axis=1)
            used += partial[:, None] * keep.slopes
            if self.seconds_row is not None:
                used[:, self.seconds_row] += keep.seconds[partial]
        if self.seconds_row is not None:
            for index, seconds in enumerate(self.seconds):
                used[:, self.seconds_row] += seconds[selections[:, index]]
        return used


def resources(problem: Problem) -> Resources:
    """The resources of `problem`, every limit that is set."""
    return _Collector(problem).collect()


class _Collector:
    """Rows in the making: each attribute gets one entry, or one column, a row."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.table = problem, problem.table
        self.columns = np.array(problem.columns)
        self.biased = np.array(
            [i for i, b in enumerate(problem.bias_columns) if b is not None], int
        )
        self.biases = np.array([b for b in problem.bias_columns if b is not None], int)
        self.members = self.table.membership[:, self.columns].copy()
        self.members[:, self.biased] |= self.table.membership[:, self.biases]
        place = {column: index for index, column in enumerate(problem.columns)}
        self.keeps = [
            (keep, index)
            for keep in self.table.shared_keeps
            for index in sorted(place[reader] for reader in keep.readers if reader in place)
            if not self.members[keep.whole, index]
        ]
        self.sizes = np.array([candidate.size for candidate in problem.candidates])
        self.able = self.members.any(axis=1)
        self.rows: list[str] = []
        self.room: list[Floats] = []
        self.clause_costs: list[Floats] = []
        self.opening: list[Floats] = []
        self.slopes: list[Floats] = []
        self.pair_costs: list[Floats] = []
        self.keep_slopes: list[Floats] = []
        self.seconds_row: int | None = None
        width = len(self.columns)
        self.excludes = np.zeros((width, width), dtype=bool)
        for group in problem.exclusive:
            self.excludes[np.ix_(group, group)] = True
        np.fill_diagonal(self.excludes, False)
        self.classes = _classes(self.excludes)

    def collect(self) -> Resources:
        limits = dict(self.problem.limits())
        peaks = [limits[n] for n in ("working_bytes",) if n in limits]
        accounting = self.problem.budget.accounting
        if "memory_bytes" in limits:
            if accounting in OF_LIVE_BYTES:
                peaks.append(limits["memory_bytes"])
            elif accounting == "paper":
                self._paper(limits["memory_bytes"])
            else:
                self._tiny_training(limits["memory_bytes"])
        if peaks:
            self._peak(min(peaks))
        if "macs" in limits:
            table = self.table
            parts = [table.recompute, table.input_gradient, table.weight_gradient]
            self._add_linear("macs", limits["macs"], _total(parts))
        if self.problem.seconds_limit is not None:
            assert self.table.seconds is not None
            self._seconds(self.problem.seconds_limit, self.table.seconds)
        class_of = {i: row for row, members in enumerate(self.classes) for i in members}
        for group in self.problem.exclusive:
            if len({class_of[index] for index in group}) > 1:
                self._one_of(group)
        return self._compact()

    def _one_of(self, group: Sequence[int]) -> None:
        """A row that allows one of `group` to be opened."""
        opening = np.zeros((len(self.columns), 1))
        opening[list(group)] = 1.0
        self._add_own("exclusive", 1.0, opening, np.zeros_like(opening))

    def _add_own(self, name: str, limit: float, opening: Floats, slopes: Floats) -> None:
        """A row in which nothing but candidates themselves costs anything."""
        nothing = np.zeros((len(self.table.clauses), 1))
        self._add(name, np.full(1, limit), nothing, opening, slopes)

    def _add_linear(
        self,
        name: str,
        limit: float,
        linear: Linear,
        pairs: Floats | None = None,
        keeps: Floats | None = None,
    ) -> None:
        """Rows `linear <= limit`, one a position, with what pairs and keeps cost in each."""
        opening = np.zeros((len(self.columns), len(linear.constant)))
        opening[self.biased] = linear.channels[self.biases]
        slopes = linear.channels[self.columns]
        room = limit - linear.constant
        self._add(name, room, linear.clauses, opening, slopes, pairs, keeps)

    def _add(
        self,
        name: str,
        room: Floats,
        clauses: Floats,
        opening: Floats,
        slopes: Floats,
        pairs: Floats | None = None,
        keeps: Floats | None = None,
    ) -> None:
        """The rows of these that some selection exceeds; that of the seconds in any case."""
        if pairs is None:
            pairs = np.zeros((len(self.table.conjunctions), len(room)))
        if keeps is None:
            keeps = np.zeros((len(self.keeps), len(room)))
        kept = self.sizes[[index for _, index in self.keeps]].astype(float)
        most = self.able.astype(float) @ clauses + opening.sum(axis=0) + self.sizes @ slopes
        matter = most + pairs.sum(axis=0) + kept @ keeps > room
        if name == SECONDS:
            self.seconds_row = len(self.rows)
            matter[:] = True
        self.rows += [name] * int(matter.sum())
        self.room.append(room[matter])
        self.clause_costs.append(clauses[:, matter])
        self.opening.append(opening[:, matter])
        self.slopes.append(slopes[:, matter])
        self.pair_costs.append(pairs[:, matter])
        self.keep_slopes.append(keeps[:, matter])

    def _seconds(self, limit: float, linear: Linear) -> None:
        """What a bias takes does not depend on a count of channels."""
        channels = np.zeros_like(linear.channels)
        for column in self.biases.tolist():
            channels[column] = self.table.count_seconds[column][1]
        self._add_linear(SECONDS, limit, Linear(linear.constant, linear.clauses, channels))

    def _peak(self, limit: float) -> None:
        memory = self.table.memory
        pairs = np.array([both.bytes_at for both in self.table.conjunctions])
        keeps = np.zeros((len(self.keeps), len(memory.constant)))
        for row, (keep, index) in enumerate(self.keeps):
            for clause, span in keep.segments:
                if self.table.membership[clause, self.columns[index]]:
                    keeps[row] += keep.channel_bytes * span
        pairs = pairs.reshape(-1, len(memory.constant))
        if PEAKS not in self.problem.derived:
            self.problem.derived[PEAKS] = self._possible_peaks(memory, pairs, keeps)
        at = self.problem.derived[PEAKS]
        here = Linear(memory.constant[at], memory.clauses[:, at], memory.channels[:, at])
        self._add_linear("peak", limit, here, pairs[:, at], keeps[:, at])

    def _possible_peaks(self, memory: Linear, pairs: Floats, keeps: Floats) -> Integers:
        """The positions at which a plan of these candidates can have its peak."""
        opening = np.zeros((len(self.columns), len(memory.constant)))
        opening[self.biased] = memory.channels[self.biases]
        members, costs = self._merged_clauses(memory.clauses)
        _, costs = self._of_several(members, costs, opening)
        slopes = memory.channels[self.columns]
        return undominated_columns(
            np.vstack([memory.constant[None], costs, opening, slopes, pairs, keeps])
        )

    def _paper(self, limit: float) -> None:
        table = self.table
        parts = [table.updated_weights, table.gradients, table.optimizer, table.kept]
        keeps = np.array([keep.channel_bytes * float(keep.across_loss) for keep, _ in self.keeps])
        self._add_linear("paper", limit, _total(parts), keeps=keeps[:, None])

    def _tiny_training(self, limit: float) -> None:
        terms = self.problem.tiny_training
        width = len(self.columns)
        opening, slopes = np.zeros((width, 1)), np.zeros((width, 1))
        for index, candidate in enumerate(self.problem.candidates):
            charge = terms.charge(candidate.layer, candidate.axis)
            opening[index], slopes[index] = charge.fixed_bytes, charge.channel_bytes
            if self.problem.bias_columns[index] is not None:
                opening[index] += terms.bias_bytes[candidate.layer]
        self._add_own("tiny-training", limit - terms.constant_bytes, opening, slopes)

    # What remains of it.

    def _compact(self) -> Resources:
        """Clauses that can be met, each set of candidates once; rows that can bind."""
        problem = self.problem
        opening, slopes, pair_costs, keep_slopes = (
            np.hstack(part) if self.rows else np.zeros((height, 0))
            for part, height in (
                (self.opening, len(self.columns)),
                (self.slopes, len(self.columns)),
                (self.pair_costs, len(self.table.conjunctions)),
                (self.keep_slopes, len(self.keeps)),
            )
        )
        empty = np.zeros((len(self.members), 0))
        members, costs = self._merged_clauses(np.hstack([empty, *self.clause_costs]))
        members, costs = self._of_several(members, costs, opening)
        room = np.concatenate(self.room)[None] if self.rows else np.zeros((1, 0))
        parts = [room, costs, opening, slopes, pair_costs, keep_slopes]
        left = self._rows_not_implied(parts)
        room, costs, opening, slopes, pair_costs, keep_slopes = (part[:, left] for part in parts)
        pairs = [
            Pair(self.members[both.first], self.members[both.second], cost)
            for both, cost in zip(self.table.conjunctions, pair_costs, strict=True)
        ]
        position = {call.name: i for i, call in enumerate(problem.graph.calls)}
        layers = problem.graph.layers
        start = [position[layers[c.layer].calls[0]] for c in problem.candidates]
        rank = np.argsort(np.argsort(start, kind="stable"), kind="stable")
        timed = self.seconds_row is not None
        return Resources(
            rows=tuple(self.rows[i] for i in left),
            room=room[0],
            clauses=members,
            clause_costs=costs,
            opening=opening,
            slopes=slopes,
            pairs=tuple(p for p in pairs if p.first.any() and p.second.any() and p.costs.any()),
            keeps=tuple(
                Keep(index, self.members[keep.whole], slope, self.table.keep_seconds[keep.value])
                for (keep, index), slope in zip(self.keeps, keep_slopes, strict=True)
                if slope.any() or timed
            ),
            seconds_row=left.index(self.seconds_row) if self.seconds_row is not None else None,
            seconds=tuple(self.table.count_seconds[c] for c in self.columns) if timed else (),
            limit_s=self.problem.seconds_limit or 0.0,
            sizes=self.sizes,
            excludes=self.excludes,
            classes=self.classes,
            rank=tuple(rank.tolist()),
        )

    def _merged_clauses(self, clauses: Floats) -> tuple[Booleans, Floats]:
        """The clauses that can be met and cost something, those with the same candidates as one."""
        able = np.flatnonzero(self.able & clauses.any(axis=1))
        if not len(able):
            return np.zeros((0, len(self.columns)), dtype=bool), np.zeros((0, clauses.shape[1]))
        members, which = np.unique(self.members[able], axis=0, return_inverse=True)
        in_order = np.argsort(which.reshape(-1), kind="stable")
        starts = np.searchsorted(which.reshape(-1)[in_order], range(len(members)))
        costs = clauses[able[in_order]]
        return members, np.add.reduceat(costs, starts, axis=0)

    def _of_several(
        self, members: Booleans, costs: Floats, opening: Floats
    ) -> tuple[Booleans, Floats]:
        """The clauses that candidates of several classes meet.

        Of the others one candidate at most is opened: they are part of what `opening` it costs.
        """
        class_of = np.empty(members.shape[1], dtype=np.int64)
        for row, found in enumerate(self.classes):
            class_of[list(found)] = row
        alone = np.array([len(set(class_of[row].tolist())) == 1 for row in members], dtype=bool)
        for row in np.flatnonzero(alone).tolist():
            opening[members[row]] += costs[row]
        return members[~alone], costs[~alone]

    def _rows_not_implied(self, parts: Sequence[Floats]) -> list[int]:
        """Rows without those that another row implies.

        The row of the seconds always stays, and so does one that nothing can satisfy.
        """
        if not self.rows:
            return []
        room, *others = parts
        left = set(undominated_columns(np.vstack([-room, *others])).tolist())
        if self.seconds_row is not None:
            left.add(self.seconds_row)
        return sorted(left)


def _classes(excludes: Booleans) -> tuple[tuple[int, ...], ...]:
    """A partition of the candidates into classes whose members all exclude each other."""
    left, classes = np.ones(len(excludes), dtype=bool), []
    for first in range(len(excludes)):
        if not left[first]:
            continue
        members = [first]
        left[first] = False
        able = excludes[first] & left
        while able.any():
            other = int(np.argmax(able))
            members.append(other)
            left[other] = False
            able &= excludes[other]
        classes.append(tuple(members))
    return tuple(classes)


def _total(parts: Sequence[Linear]) -> Linear:
    """The sum of `parts`."""
    constant, clauses, channels = parts[0].constant, parts[0].clauses, parts[0].channels
    for part in parts[1:]:
        constant, clauses = constant + part.constant, clauses + part.clauses
        channels = channels + part.channels
    return Linear(constant, clauses, channels)
