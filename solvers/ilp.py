"""The exact answer as mixed-integer linear programs, through PuLP.

By case (the default): the search of the exact solver finds the cases and the multipliers, and an
integer program decides each. With loss_o what option o of a class loses of the bound, a_o what it
costs, s the room left empty and m its price, it asks for

    minimise  sum_o loss_o x_o + m s  <=  D
    with      sum_o a_o x_o + s = b,   sum_{o in c} x_o = 1 for each class c,
              x_o in {0, 1},   s >= 0.

Only options that lose at most D have a variable. Classes are combined, those with the fewest
options first, while the options of two together that no other dominates are few: near-equal
options of many classes under one tight row are what branch and bound cannot tell apart.

In one program (`by_case=False`), for each candidate i with sorted gains g_i1 >= g_i2 ...:

    u_i in {0, 1}           the candidate is opened
    k_i integer             how many channels of it are taken
    x_ij in [0, 1]          channel j of it is taken

    maximise    sum_ij g_ij x_ij
    with        sum_j x_ij = k_i,   x_ij <= u_i,   u_i <= k_i,   sum_i u_i >= 1,
                sum_{i in class} u_i <= 1.

An integer k_i makes the x_ij of an optimum integer by itself. A clause c is met (y_c = 1) when one
of its candidates is opened; then there are pairs of clauses, channels kept unless a value is kept
whole, and seconds, which are at least each affine piece of a convex function of the count:

    y_c >= u_i  for each i in c,      z >= y_a + y_b - 1,
    v_i >= k_i - n_i y_whole,         t_i >= slope k_i + offset u_i - t_max y_whole,

and one row for each of the resources. Its relaxation is weak where clauses are met by fractions,
which is why it takes seconds to minutes where the other takes fractions of a second.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pulp

from costsim.base.errors import InputError
from costsim.pricing.table import Floats, Integers
from costsim.problem.problem import Problem
from costsim.problem.solution import ANY_GAIN, Aim, Answer, Clock, Deadline, Status

from .combined import Level
from .dominance import undominated
from .enumeration import Enumeration
from .lagrangian import Bound, Relaxation
from .resources import Booleans, resources
from .search import OutOfTime, Search

GAIN_SCALE = 1e4
"""Gains are scaled to sum to this, so that the solvers' absolute tolerances mean nothing."""

WORK = 1250
"""States that a program counts as: the loss looked at then doubles from one to the next."""

Terms = list[tuple[pulp.LpVariable, float]]


@dataclass(frozen=True, slots=True)
class IntegerProgram:
    """Exact at channel level. At the time limit: the best plan so far and its bound.

    `clock` says by what the limit is counted. `combine` is how many options combined classes may
    have.
    """

    name: ClassVar[str] = "ilp"

    backend: Literal["HiGHS", "CBC"] = "HiGHS"
    time_limit_s: float = 60.0
    clock: Clock = "processor"
    by_case: bool = True
    combine: int = 2000
    aim: Aim = ANY_GAIN

    def __call__(self, problem: Problem) -> Answer:
        deadline = Deadline.after(self.time_limit_s, self.clock)
        _backend(self, 1.0)
        if not self.by_case:
            return _Model(problem).solve(self, deadline)
        return Search(problem, deadline, _Decider(self, deadline), self.aim).run()


class _Decider:
    """Decides cases by an integer program."""

    def __init__(self, solver: IntegerProgram, deadline: Deadline) -> None:
        self.solver, self.deadline = solver, deadline

    def __call__(
        self,
        relaxation: Relaxation,
        bound: Bound,
        most: float,
        found: Callable[[Integers], float],
        tick: Callable[[], None],
    ) -> int:
        """Looks at a case, see `Look`."""
        whole = Enumeration(relaxation, bound, most, found, tick)
        spare = most - whole.start
        if spare < 0:
            return 0
        groups = self._combined(whole, spare)
        program = pulp.LpProblem("case", pulp.LpMinimize)
        # Rows relative to their room; without any, what costs something is out all the same.
        scale = np.where(whole.room > 0, whole.room, 1.0)
        lost: Terms = []
        used: list[Terms] = [[] for _ in whole.room]
        chosen = []
        for g, (level, options) in enumerate(groups):
            taken = [
                program.add_variable(f"x{g}_{o}", 0, 1, "Integer") for o in range(len(level.loss))
            ]
            chosen.append((taken, options))
            lost += zip(taken, (level.loss / most).tolist(), strict=True)
            for row, terms in enumerate(used):
                terms += zip(taken, (level.costs[:, row] / scale[row]).tolist(), strict=True)
            program += pulp.LpAffineExpression([(x, 1) for x in taken]) == 1
        for row, terms in enumerate(used):
            empty = program.add_variable(f"s{row}", 0, 1, "Continuous")
            program += pulp.LpAffineExpression([*terms, (empty, 1)]) == float(
                max(whole.room[row], 0.0) / scale[row]
            )
            lost.append((empty, float(whole.price[row] * scale[row] / most)))
        program += pulp.LpAffineExpression(lost) <= spare / most
        program.setObjective(pulp.LpAffineExpression(lost))
        _run(program, self.solver, self.deadline)
        if _found(program, self.solver):
            answer = np.full((1, len(relaxation.forced)), -2, dtype=np.int64)
            for taken, (members, choices) in chosen:
                best = int(np.argmax([x.value() for x in taken]))
                answer[0, members] = choices[best]
            if found(answer) >= most and program.sol_status == pulp.LpSolutionOptimal:
                # Not within the limits to the last byte, as the solver's tolerance would have it.
                whole.run()
        if program.sol_status != pulp.LpSolutionOptimal and not _infeasible(program):
            if self.deadline.passed:
                raise OutOfTime
            # The solver gave up, on numbers too close together for it.
            whole.run()
        return WORK

    def _combined(
        self, whole: Enumeration, most: float
    ) -> list[tuple[Level, tuple[list[int], Integers]]]:
        """The classes, combined: of each group the classes it is of and their options."""
        groups = [(level, ([level.row], level.options[:, None])) for level in whole.levels]
        while len(groups) > 1:
            groups.sort(key=lambda group: len(group[0].loss))
            (first, (rows, ours)), (second, (more, theirs)) = groups[:2]
            if len(first.loss) * len(second.loss) > self.solver.combine * 100:
                break
            i, j = np.nonzero(first.loss[:, None] + second.loss <= most)
            loss, costs = first.loss[i] + second.loss[j], first.costs[i] + second.costs[j]
            if len(whole.room):
                left = undominated(costs, costs @ whole.price - loss)
            else:
                left = np.array([int(np.argmin(loss))])
            if len(left) > self.solver.combine:
                break
            level = Level(first.row, left, loss[left], costs[left])
            options = np.hstack([ours[i[left]], theirs[j[left]]])
            groups[:2] = [(level, (rows + more, options))]
        return groups


class _Model:
    """All of it in one program."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.resources = problem, resources(problem)
        self.program = pulp.LpProblem("channels", pulp.LpMaximize)
        self.rows = 0
        self.opened = [
            self._variable(f"u{i}", 1, integer=True) for i in range(len(problem.candidates))
        ]
        self.counts = [
            self._variable(f"k{i}", candidate.size, integer=True)
            for i, candidate in enumerate(problem.candidates)
        ]
        self.met: dict[bytes, pulp.LpVariable] = {}
        self.scale = GAIN_SCALE / max(sum(sum(c.gains) for c in problem.candidates), 1e-300)
        self._channels()
        self._resources()

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
        for members in self.resources.classes:
            if len(members) > 1:
                self._at_most([(self.opened[i], 1) for i in members], 1)
        self._at_most([(u, -1) for u in self.opened], -1)
        self.program.setObjective(pulp.LpAffineExpression(gain))

    def _met(self, members: Booleans) -> pulp.LpVariable:
        """The variable of the clause of these candidates."""
        key = members.tobytes()
        causes = np.flatnonzero(members).tolist()
        if key not in self.met:
            if len(causes) == 1:
                self.met[key] = self.opened[causes[0]]
            else:
                self.met[key] = y = self._variable(f"y{len(self.met)}", 1)
                for i in causes:
                    self._at_most([(self.opened[i], 1), (y, -1)], 0)
                # Met only if it must be: matters where a value kept whole saves its channels.
                self._at_most([(y, 1), *((self.opened[i], -1) for i in causes)], 0)
        return self.met[key]

    def _resources(self) -> None:
        r = self.resources
        pairs, keeps = [], []
        for n, pair in enumerate(r.pairs):
            z = self._variable(f"z{n}", 1)
            first, second = self._met(pair.first), self._met(pair.second)
            self._at_most([(first, 1), (second, 1), (z, -1)], 1)
            pairs.append((z, pair.costs))
        for n, keep in enumerate(r.keeps):
            v = self._variable(f"v{n}", None)
            terms: Terms = [(self.counts[keep.candidate], 1), (v, -1)]
            if keep.whole.any():
                terms.append((self._met(keep.whole), -float(r.sizes[keep.candidate])))
            self._at_most(terms, 0)
            keeps.append((v, keep.slopes))
        for row in range(len(r.room)):
            parts: list[tuple[Any, Floats]] = [
                *(
                    (self._met(c), costs)
                    for c, costs in zip(r.clauses, r.clause_costs, strict=True)
                ),
                *zip(self.opened, r.opening, strict=True),
                *zip(self.counts, r.slopes, strict=True),
                *pairs,
                *keeps,
            ]
            terms = [(variable, float(costs[row])) for variable, costs in parts if costs[row]]
            if row == r.seconds_row:
                terms += [(self._seconds(i, s), 1.0) for i, s in enumerate(r.seconds)]
                terms += [(self._seconds(k.candidate, k.seconds, k.whole), 1.0) for k in r.keeps]
            self._at_most(terms, float(r.room[row]))

    def _seconds(
        self, index: int, seconds: Floats, unless: Booleans | None = None
    ) -> pulp.LpVariable:
        """A variable no less than `seconds` of the count of a candidate; 0 if it is not opened.

        `seconds` is convex from one channel on: a sum of maxima of affine functions.
        """
        seconds = seconds[: self.problem.candidates[index].size + 1]
        variable = self._variable(f"t{self.rows}", None)
        slopes = np.diff(seconds[1:]) if len(seconds) > 2 else np.zeros(1)
        changes = np.flatnonzero(np.abs(np.diff(slopes)) > 1e-12 * np.abs(slopes[:-1])) + 1
        for start in [0, *changes]:
            slope = float(slopes[start])
            offset = float(seconds[start + 1]) - slope * (start + 1)
            terms: Terms = [(self.counts[index], slope), (self.opened[index], offset)]
            if unless is not None and unless.any():
                terms.append((self._met(unless), -float(seconds[-1])))
            self._at_most([*terms, (variable, -1)], 0)
        return variable

    def solve(self, options: IntegerProgram, deadline: Deadline) -> Answer:
        """Hand it over, and read back what is proven.

        A plan that is within the limits to the solver's tolerance alone is ruled out, and the
        question asked again.
        """
        everything = sum(sum(c.gains) for c in self.problem.candidates)
        bound = everything
        while True:
            _run(self.program, options, deadline)
            if _infeasible(self.program):
                return Answer(None, Status.INFEASIBLE)
            bound = min(bound, self._bound(options))
            if not _found(self.program, options):
                told = f"no plan found within {deadline}"
                return Answer(None, Status.TIME_LIMIT, bound, told)
            selection = np.array([[round(k.value() or 0) for k in self.counts]], dtype=np.int64)
            proven = self.program.sol_status == pulp.LpSolutionOptimal
            if self.problem.fits(selection)[0]:
                break
            if not proven and deadline.passed:
                told = f"no plan found within {deadline}"
                return Answer(None, Status.TIME_LIMIT, bound, told)
            self._rule_out(selection[0])
        plan = self.problem.plan(selection[0])
        if proven:
            return Answer(plan, Status.OPTIMAL, float(self.problem.gains(selection)[0]))
        return Answer(plan, Status.TIME_LIMIT, bound, f"after {deadline}")

    def _rule_out(self, selection: Integers) -> None:
        """Ask for another count of some candidate than that of `selection`: fewer or more."""
        others: Terms = []
        for k, taken, candidate in zip(
            self.counts, selection.tolist(), self.problem.candidates, strict=True
        ):
            if taken > 0:
                others.append((fewer := self._variable(f"f{self.rows}", 1, integer=True), -1))
                most = candidate.size - taken + 1
                self._at_most([(k, 1), (fewer, most)], candidate.size)
            if taken < candidate.size:
                others.append((more := self._variable(f"m{self.rows}", 1, integer=True), -1))
                self._at_most([(k, -1), (more, taken + 1)], 0)
        self._at_most(others, -1)

    def _bound(self, options: IntegerProgram) -> float:
        """The solver's dual bound, never above taking everything; CBC's is not readable."""
        everything = sum(sum(c.gains) for c in self.problem.candidates)
        if options.backend == "HiGHS":
            bound = -float(self.program.solverModel.getInfo().mip_dual_bound) / self.scale
            return min(bound, everything) if np.isfinite(bound) else everything
        return everything


def _found(program: pulp.LpProblem, options: IntegerProgram) -> bool:
    """Whether there is an answer: PuLP calls a HiGHS run cut before its first one feasible."""
    if program.sol_status not in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible):
        return False
    if options.backend == "HiGHS":
        return int(program.solverModel.getInfo().primal_solution_status) == 2
    return True


def _infeasible(program: pulp.LpProblem) -> bool:
    """Whether it is proven that there is no answer; CBC says so in the status alone."""
    return pulp.LpSolutionInfeasible in (program.sol_status, program.status)


def _run(program: pulp.LpProblem, options: IntegerProgram, deadline: Deadline) -> None:
    """Solve, or stop at the deadline.

    HiGHS counts the clock alone. Where it stops on a busy machine with processor time left it is
    asked again, with twice as long; what it has computed is lost, but counts.
    """
    allowed_s = max(deadline.left_s, 0.01)
    while True:
        program.solve(_backend(options, allowed_s))
        if options.backend != "HiGHS" or deadline.passed or deadline.clock == "wall":
            return
        if program.solverModel.getModelStatus().name != "kTimeLimit":
            return
        allowed_s *= 2


def _backend(options: IntegerProgram, time_limit_s: float) -> pulp.LpSolver:
    """The solver behind PuLP; raises `InputError` where it cannot be had."""
    if options.backend == "HiGHS":
        try:
            import highspy  # noqa: F401
        except ImportError as error:
            raise InputError(
                f"solver ilp: HiGHS cannot be loaded; it comes with highspy: {error}"
            ) from error
        return pulp.getSolver(
            "HiGHS",
            msg=False,
            timeLimit=time_limit_s,
            gapRel=0.0,
            gapAbs=0.0,
            threads=1,
            random_seed=0,
            mip_feasibility_tolerance=1e-9,
            primal_feasibility_tolerance=1e-9,
        )
    with warnings.catch_warnings():
        # PuLP 4 will have CBC in a package of its own; the pinned one ships it.
        warnings.filterwarnings("ignore", "PULP_CBC_CMD", DeprecationWarning)
        backend = pulp.getSolver(
            "PULP_CBC_CMD",
            msg=False,
            timeLimit=time_limit_s,
            timeMode="elapsed" if options.clock == "wall" else "cpu",
            gapRel=0.0,
            threads=1,
        )
    if not backend.available():
        raise InputError("solver ilp: CBC is not installed; it comes with pulp with its CBC binary")
    return backend
