"""The exact answer as a mixed-integer linear programme, through PuLP.

For each candidate i (a layer along an axis, its n_i channels sorted by gain g_i1 >= g_i2 ...):

    u_i in {0, 1}           the candidate is opened
    k_i integer             how many channels of it are taken
    x_ij in [0, 1]          channel j of it is taken

    maximise    sum_ij g_ij x_ij
    with        sum_j x_ij = k_i,   x_ij <= u_i,   u_i <= k_i,   sum_i u_i >= 1.

All channels of a candidate cost the same, so the costs see k_i alone, and since gains are sorted
an integer k_i makes the x_ij of an optimum integer by itself.

A clause c of the cost table is met (y_c = 1) when one of its candidates is opened:

    y_c >= u_i  for each i in c.

Two clauses that must both be met, and the channels kept of a value unless it is kept whole:

    z >= y_a + y_b - 1,         v >= b k_i - b n_i y_whole.

Memory, one row for each position p of the training step, against the same limit; `peak` is the
maximum of the rows:

    constant_p + sum_c clause_cp y_c + sum_i channel_ip k_i + sum z + sum v <= memory.

Backward MACs: one such row. Seconds: t_i is at least each affine piece of the (convex) seconds of
candidate i by count, and one row limits their sum.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import pulp

from costsim.errors import InputError
from costsim.problem import Problem
from costsim.solution import Answer, Status
from costsim.table import Floats, Linear, SharedKeep

GAIN_SCALE = 1e4
"""Gains are scaled to sum to this, so that the solvers' absolute tolerances mean nothing."""

Terms = list[tuple[pulp.LpVariable, float]]


@dataclass(frozen=True, slots=True)
class IntegerProgram:
    """Exact at channel level. At the time limit: the best plan so far, its bound and gap."""

    name: ClassVar[str] = "ilp"

    backend: Literal["HiGHS", "CBC"] = "HiGHS"
    time_limit_s: float = 60.0

    def __call__(self, problem: Problem) -> Answer:
        return _Model(problem).solve(self)


@dataclass
class _Model:
    problem: Problem
    program: pulp.LpProblem = field(init=False)

    def __post_init__(self) -> None:
        problem = self.problem
        self.table = problem.table
        self.program = pulp.LpProblem("channels", pulp.LpMaximize)
        self.rows = 0
        self.partial: list[tuple[pulp.LpVariable, SharedKeep]] | None = None
        self.opened = [self._variable(f"u{i}", 1, integer=True) for i in range(self.width)]
        self.counts = [
            self._variable(f"k{i}", candidate.size, integer=True)
            for i, candidate in enumerate(problem.candidates)
        ]
        self.met: dict[int, pulp.LpVariable] = {}
        self.opens = {column: i for i, column in enumerate(problem.columns)} | {
            column: i for i, column in enumerate(problem.bias_columns) if column is not None
        }
        self.scale = GAIN_SCALE / max(sum(sum(c.gains) for c in problem.candidates), 1e-300)
        self._channels()
        for name, limit in problem.limits():
            self._limit(name, limit)

    @property
    def width(self) -> int:
        return len(self.problem.candidates)

    def _variable(
        self, name: str, upper: float | None, *, integer: bool = False
    ) -> pulp.LpVariable:
        return self.program.add_variable(name, 0, upper, "Integer" if integer else "Continuous")

    def _at_most(self, terms: Terms, limit: float) -> None:
        """One row, scaled to a limit of one so that the solver's tolerance is relative."""
        scale = 1.0 / max(abs(limit), 1.0)
        row: dict[pulp.LpVariable, float] = {}
        for variable, coefficient in terms:
            row[variable] = row.get(variable, 0.0) + coefficient * scale
        self.program += pulp.LpAffineExpression(row) <= limit * scale
        self.rows += 1

    def _channels(self) -> None:
        gain: Terms = []
        for i, candidate in enumerate(self.problem.candidates):
            taken = [self._variable(f"x{i}_{j}", 1) for j in range(candidate.size)]
            gain += [(x, g * self.scale) for x, g in zip(taken, candidate.gains, strict=True)]
            self.program += (
                pulp.LpAffineExpression([*((x, 1) for x in taken), (self.counts[i], -1)]) == 0
            )
            for x in taken:
                self._at_most([(x, 1), (self.opened[i], -1)], 0)
            self._at_most([(self.opened[i], 1), (self.counts[i], -1)], 0)
        for group in self.problem.exclusive:
            self._at_most([(self.opened[i], 1) for i in group], 1)
        self._at_most([(u, -1) for u in self.opened], -1)
        self.program.setObjective(pulp.LpAffineExpression(gain))

    # Clauses.

    def _met(self, clause: int) -> pulp.LpVariable | None:
        """The variable of a clause; None if no candidate can meet it."""
        if clause not in self.met:
            causes = self._causes(clause)
            if not causes:
                return None
            if len(causes) == 1:
                self.met[clause] = self.opened[causes[0]]
            else:
                self.met[clause] = self._variable(f"y{clause}", 1)
                for i in causes:
                    self._at_most([(self.opened[i], 1), (self.met[clause], -1)], 0)
        return self.met[clause]

    def _causes(self, clause: int) -> list[int]:
        columns = np.flatnonzero(self.table.membership[clause]).tolist()
        return sorted({self.opens[c] for c in columns if c in self.opens})

    def _linear(self, linear: Linear, position: int) -> tuple[Terms, float]:
        terms: Terms = []
        for clause in np.flatnonzero(linear.clauses[:, position]).tolist():
            if (met := self._met(clause)) is not None:
                terms.append((met, float(linear.clauses[clause, position])))
        for column in np.flatnonzero(linear.channels[:, position]).tolist():
            if column not in self.opens:
                continue
            index = self.opens[column]
            variables = self.counts if column in self.problem.columns else self.opened
            terms.append((variables[index], float(linear.channels[column, position])))
        return terms, float(linear.constant[position])

    # Limits.

    def _limit(self, name: str, limit: float) -> None:
        match name, self.problem.budget.accounting:
            case ("working_bytes", _) | ("memory_bytes", "peak"):
                self._limit_peak(limit)
            case "memory_bytes", "paper":
                self._limit_sum(
                    [
                        self.table.updated_weights,
                        self.table.gradients,
                        self.table.optimizer,
                        self.table.kept,
                    ],
                    limit,
                    [(kept, 1.0) for kept, _ in self._partial_keeps()],
                )
            case "memory_bytes", _:
                self._limit_tiny_training(limit)
            case "macs", _:
                self._limit_sum([self.table.input_gradient, self.table.weight_gradient], limit, [])
            case "latency_s", _:
                self._limit_seconds(limit)
            case "energy_j", _:
                assert self.problem.compute_w is not None
                self._limit_seconds(limit / self.problem.compute_w)

    def _limit_sum(self, parts: Sequence[Linear], limit: float, extra: Terms) -> None:
        terms, constant = list(extra), 0.0
        for part in parts:
            more, fixed = self._linear(part, 0)
            terms += more
            constant += fixed
        self._at_most(terms, limit - constant)

    def _limit_peak(self, limit: float) -> None:
        both = []
        for conjunction in self.table.conjunctions:
            first, second = self._met(conjunction.first), self._met(conjunction.second)
            if first is not None and second is not None:
                z = self._variable(f"z{self.rows}", 1)
                self._at_most([(first, 1), (second, 1), (z, -1)], 1)
                both.append((z, conjunction.bytes_at))
        partial = self._partial_keeps()
        for position in range(len(self.table.memory.constant)):
            terms, constant = self._linear(self.table.memory, position)
            terms += [(z, float(size[position])) for z, size in both]
            terms += [
                (variable, 1.0)
                for variable, keep in partial
                if any(span[position] for _, span in keep.segments)
            ]
            self._at_most(terms, limit - constant)

    def _partial_keeps(self) -> list[tuple[pulp.LpVariable, SharedKeep]]:
        """Bytes kept of the channels of a value that may be kept whole instead.

        `exclusive` sees to it that at most one reader is open, so their counts add up.
        """
        if self.partial is None:
            self.partial = []
            for keep in self.table.shared_keeps:
                readers = [self.opens[r] for r in keep.readers if r in self.problem.columns]
                if not readers:
                    continue
                size = keep.channel_bytes
                kept = self._variable(f"v{self.rows}", None)
                terms: Terms = [(self.counts[i], size) for i in readers]
                if (whole := self._met(keep.whole)) is not None:
                    most = max(self.problem.candidates[i].size for i in readers)
                    terms.append((whole, -size * most))
                    # Elsewhere a clause costs, so that it is only ever met when it must be.
                    causes = [self.opened[i] for i in self._causes(keep.whole)]
                    self._at_most([(whole, 1), *((u, -1) for u in causes)], 0)
                self._at_most([*terms, (kept, -1)], 0)
                self.partial.append((kept, keep))
        return self.partial

    def _limit_tiny_training(self, limit: float) -> None:
        prices = self.problem.tiny_training
        terms: Terms = []
        for i, candidate in enumerate(self.problem.candidates):
            charge = prices.charges[candidate.layer, candidate.axis]
            bias = self.problem.bias_columns[i] is not None
            fixed = charge.fixed_bytes + (prices.bias_bytes[candidate.layer] if bias else 0)
            terms += [(self.counts[i], charge.channel_bytes), (self.opened[i], fixed)]
        self._at_most(terms, limit - prices.constant_bytes)

    def _limit_seconds(self, limit: float) -> None:
        assert self.table.seconds is not None
        terms, constant = self._linear(self.table.seconds, 0)
        by_count = self.table.count_seconds
        for i, candidate in enumerate(self.problem.candidates):
            if (bias := self.problem.bias_columns[i]) is not None:
                terms.append((self.opened[i], float(by_count[bias][1])))
            terms.append((self._at_least(i, by_count[self.problem.columns[i]]), 1.0))
            for keep in self.table.shared_keeps:
                if self.problem.columns[i] in keep.readers:
                    seconds = self.table.keep_seconds[keep.value][: candidate.size + 1]
                    terms.append((self._at_least(i, seconds, keep.whole), 1.0))
        self._at_most(terms, limit - constant)

    def _at_least(self, index: int, seconds: Floats, unless: int | None = None) -> pulp.LpVariable:
        """A variable no less than `seconds` of the count of a candidate; 0 if it is not opened.

        `seconds` is convex from one channel on: a sum of maxima of affine functions.
        """
        variable = self._variable(f"t{self.rows}", None)
        whole = None if unless is None else self._met(unless)
        slopes = np.diff(seconds[1:]) if len(seconds) > 2 else np.zeros(1)
        changes = np.flatnonzero(np.abs(np.diff(slopes)) > 1e-12 * np.abs(slopes[:-1])) + 1
        for start in [0, *changes]:
            slope = float(slopes[start])
            offset = float(seconds[start + 1]) - slope * (start + 1)
            terms: Terms = [(self.counts[index], slope), (self.opened[index], offset)]
            if whole is not None:
                terms.append((whole, -float(seconds[-1])))
            self._at_most([*terms, (variable, -1)], 0)
        return variable

    # Solving.

    def solve(self, options: IntegerProgram) -> Answer:
        backend = _backend(options)
        self.program.solve(backend)
        outcome = self.program.sol_status
        if outcome == pulp.LpSolutionInfeasible:
            return Answer(None, Status.INFEASIBLE)
        bound = self._bound(options)
        if not self._found(options):
            return Answer(None, Status.TIME_LIMIT, bound, reason="no plan found within the time")
        selection = np.array([[round(k.value() or 0) for k in self.counts]], dtype=np.int64)
        if outcome == pulp.LpSolutionOptimal:
            objective = float(self.problem.gains(selection)[0])
            return Answer(self.problem.plan(selection[0]), Status.OPTIMAL, objective)
        return Answer(self.problem.plan(selection[0]), Status.TIME_LIMIT, bound)

    def _found(self, options: IntegerProgram) -> bool:
        """Whether there is a plan: PuLP calls a HiGHS run cut before its first one feasible."""
        if options.backend == "HiGHS":
            return int(self.program.solverModel.getInfo().primal_solution_status) == 2
        return self.program.sol_status in (
            pulp.LpSolutionOptimal,
            pulp.LpSolutionIntegerFeasible,
        )

    def _bound(self, options: IntegerProgram) -> float | None:
        """The solver's dual bound, never above taking everything; CBC's is not readable."""
        everything = sum(sum(c.gains) for c in self.problem.candidates)
        if options.backend == "HiGHS":
            bound = -float(self.program.solverModel.getInfo().mip_dual_bound) / self.scale
            return min(bound, everything) if np.isfinite(bound) else everything
        return everything


def _backend(options: IntegerProgram) -> pulp.LpSolver:
    if options.backend == "HiGHS":
        backend = pulp.getSolver(
            "HiGHS",
            msg=False,
            timeLimit=options.time_limit_s,
            gapRel=0.0,
            gapAbs=0.0,
            threads=1,
            random_seed=0,
            mip_feasibility_tolerance=1e-9,
            primal_feasibility_tolerance=1e-9,
        )
    else:
        backend = pulp.getSolver(
            "PULP_CBC_CMD", msg=False, timeLimit=options.time_limit_s, gapRel=0.0, threads=1
        )
    if not backend.available():
        package = {"HiGHS": "highspy", "CBC": "pulp with its CBC binary"}[options.backend]
        raise InputError(f"solver ilp: {options.backend} is not installed; it comes with {package}")
    return backend
