"""One plan for several devices: every budget of every device holds.

Memory and MACs of a step are the same wherever it runs, so the least budget of each kind decides.
Seconds are not: each device has its own, and a problem has room for those of one. So the seconds of
several devices are joined in two ways, t_d being those of device d and b_d what it allows:

    sum_d w_d t_d / b_d <= 1   with weights that sum to 1: holds for every plan that fits all, so
                               that its optimum is a bound, and the answer if it fits them all;
    max_d t_d / b_d <= 1       operation by operation: fits them all, but may leave out some.

The first is asked with all weight on each device in turn, then with more and more on those that its
answer is too slow for. The second is asked if that has not settled it; how much may be missed is
then known from the bounds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from costsim.base.errors import InputError
from costsim.base.progress import Progress
from costsim.planning import Planned, PlanRequest, Prepared, conclude, prepare
from costsim.pricing.table import Floats, OperationTimer
from costsim.problem.budget import Budget
from costsim.problem.problem import Problem
from costsim.problem.solution import Answer, Solution, Solver, Status
from costsim.solving.arena_budget import INTERRUPTED
from costsim.solving.planfile import FleetRecord
from costsim.solving.solve import KnownAnswer, infeasibility, solve

ROUNDS = 8
"""How often the weights of the devices are changed."""

TIE = 1e-9
"""Gains that differ by less, relatively, are equal."""


@dataclass(frozen=True)
class Member:
    """A device's own problem, and who times its operations."""

    name: str
    problem: Problem
    timer: OperationTimer


@dataclass(frozen=True)
class JoinedSeconds:
    """Shares of what devices allow: the weighted sum of an operation's, or the greatest."""

    timers: tuple[OperationTimer, ...]
    limits_s: tuple[float, ...]
    weights: tuple[float, ...] | None = None

    def operation_seconds(
        self,
        work_kind: str,
        direction: str,
        macs: Floats,
        moved_bytes: Floats,
        kernel: str | None = None,
    ) -> Floats:
        """Not seconds but shares of the limits."""
        parts = [
            timer.operation_seconds(work_kind, direction, macs, moved_bytes, kernel=kernel) / limit
            for timer, limit in zip(self.timers, self.limits_s, strict=True)
        ]
        if self.weights is None:
            most: Floats = np.max(parts, axis=0)
            return most
        weighted = [part * weight for part, weight in zip(parts, self.weights, strict=True)]
        total: Floats = np.sum(weighted, axis=0)
        return total


def make_fleet_plan(requests: Sequence[PlanRequest], progress: Progress | None = None) -> Planned:
    """One plan within the budgets of the devices of all `requests`, which are otherwise alike.

    The plan file is the first device's; its `fleet` has the others. Raises `InputError` for a
    device that is asked twice, for steps that differ (their bit widths do), and for memory budgets
    that cannot be put together.
    """
    report = progress or (lambda _what, _done, _total: None)
    check_alike(requests)
    first = prepare(requests[0], progress)
    prepared = [first, *(prepare(request, None, first.scored) for request in requests[1:])]
    members = [
        Member(p.request.device.name, p.problem, p.request.device.target(p.request.target))
        for p in prepared
    ]
    report(f"solving: {requests[0].solver.name}", 0, 0)
    answer, seconds = solve_fleet(members, requests[0].solver)
    planned = [_concluded(p, answer, requests[0].solver.name, seconds) for p in prepared]
    also = tuple(
        FleetRecord.of(one.file.device, one.file.budget, one.file.predicted)
        for one in planned[1:]
        if one.file.device is not None
    )
    warnings = [
        f"{one.file.device.name}: {warning}" if one.file.device else warning
        for one in planned
        for warning in one.warnings
    ]
    file = replace(planned[0].file, fleet=also)
    return replace(planned[0], file=file, warnings=tuple(dict.fromkeys(warnings)))


def check_alike(requests: Sequence[PlanRequest]) -> None:
    """Raise `InputError` unless one step can be planned for all the devices."""
    for request in requests:
        request.check_of_a_step("a plan for several devices")
    names = [request.device.name for request in requests]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"--device: {twice[0]} is given twice; a plan for it once fits it twice")
    bits = {request.device.name: request.step_bits for request in requests}
    if len(set(bits.values())) > 1:
        told = ", ".join(f"{name} {width.activations}" for name, width in bits.items())
        raise InputError(
            f"--device: one plan needs the same bit widths on all devices, and what is usual on "
            f"them differs ({told} for activations); give --bits"
        )


def common_budget(members: Sequence[Member]) -> Budget:
    """The least memory and MACs that the members allow, no seconds.

    Raises `InputError` if there are memory budgets in both `paper` and `tiny-training`.
    """
    budgets = [member.problem.budget for member in members]

    def least(values: "Sequence[int | None]") -> int | None:
        return min((value for value in values if value is not None), default=None)

    limited = [b for b in budgets if b.memory_bytes is not None]
    others = sorted({b.accounting for b in limited} - {"peak"})
    if len(others) > 1:
        raise InputError(
            f"the devices' memory budgets are in {' and '.join(others)}, of which a plan can be "
            "held to one; give --accounting"
        )
    accounting = others[0] if others else "peak"
    peaks = [b.memory_bytes for b in limited if b.accounting == "peak"]
    own = [b.memory_bytes for b in limited if b.accounting == accounting]
    return Budget(
        memory_bytes=least(own),
        accounting=accounting,
        macs=least([b.macs for b in budgets]),
        working_bytes=least([*peaks, *(b.working_bytes for b in budgets)]),
    )


def solve_fleet(members: Sequence[Member], solver: Solver) -> tuple[Answer, float]:
    """The best plan that is within the budgets of all, and the seconds it took to find it.

    Optimal if no plan that fits all gains more; otherwise with the bound that was proven.
    """
    return _Fleet(members, solver).answer()


class _Fleet:
    def __init__(self, members: Sequence[Member], solver: Solver) -> None:
        self.members, self.solver = members, solver
        self.budget = common_budget(members)
        self.timed = [m for m in members if m.problem.seconds_limit is not None]
        self.limits = tuple(max(float(m.problem.seconds_limit or 0.0), 1e-30) for m in self.timed)
        self.best: Solution | None = None
        self.bound = float("inf")
        self.seconds = 0.0

    def answer(self) -> tuple[Answer, float]:
        """Relaxations until one settles it, then what is surely allowed."""
        count = len(self.timed)
        if count < 2:
            weights = [(1.0,) * count]
        else:
            weights = [tuple(float(i == j) for j in range(count)) for i in range(count)]
        for one in weights:
            solution = self._ask(one if count else None)
            if solution.status is Status.INFEASIBLE:
                return Answer(None, Status.INFEASIBLE, reason=self._why(solution)), self.seconds
            if self._settled() or solution.reason == INTERRUPTED:
                return self._found(), self.seconds
        if count > 1:
            weight = np.full(count, 1.0 / count)
            for _ in range(ROUNDS):
                solution = self._ask(tuple(weight.tolist()))
                if solution.reason == INTERRUPTED:
                    return self._found(), self.seconds
                if self._settled() or solution.plan is None:
                    break
                weight = weight * np.maximum(self._shares(solution), 1e-3) ** 4
                weight = weight / weight.sum()
            if not self._settled():
                self._ask(None, surely=True)
        return self._found(), self.seconds

    def _ask(self, weights: tuple[float, ...] | None, *, surely: bool = False) -> Solution:
        """Solve with joined seconds; take the plan if it fits all, and the bound if it is one."""
        first = self.members[0].problem
        budget, timer = self.budget, None
        if self.timed:
            budget = replace(budget, latency_s=1.0)
            timers = tuple(m.timer for m in self.timed)
            timer = JoinedSeconds(timers, self.limits, None if surely else weights)
        joined = Problem(
            first.graph,
            first.step,
            first.importance,
            budget,
            with_bias=first.with_bias,
            timer=timer,
            seed=first.seed,
        )
        solution = solve(joined, self.solver)
        self.seconds += solution.seconds
        if not surely:
            proven = solution.objective if solution.status is Status.OPTIMAL else solution.bound
            if proven is not None:
                self.bound = min(self.bound, proven)
        if solution.plan is not None and not any(
            member.problem.exceeded(solution.plan) for member in self.members
        ):
            gain = solution.objective or 0.0
            if self.best is None or gain > (self.best.objective or 0.0):
                self.best = solution
        return solution

    def _shares(self, solution: Solution) -> Floats:
        """How much of what each timed member allows a plan takes."""
        assert solution.plan is not None
        found = []
        for member, limit in zip(self.timed, self.limits, strict=True):
            costs = member.problem.table.price_plan(solution.plan)
            assert costs.step_s is not None
            found.append(float(costs.step_s[0]) / limit)
        return np.array(found)

    def _settled(self) -> bool:
        if self.best is None:
            return False
        if len(self.timed) < 2:
            return True
        return (self.best.objective or 0.0) >= self.bound * (1 - TIE)

    def _found(self) -> Answer:
        bound = None if self.bound == float("inf") else self.bound
        if self.best is None:
            reason = "no plan was found that fits all devices"
            return Answer(None, Status.TIME_LIMIT, bound, reason)
        status = self.best.status
        if len(self.timed) > 1:
            proven = bound is not None and self._settled()
            status = Status.OPTIMAL if proven else Status.FEASIBLE
        if status is Status.OPTIMAL:
            bound = self.best.objective
        return Answer(self.best.plan, status, bound, self.best.reason)

    def _why(self, solution: Solution) -> str:
        """The first device on which nothing fits; otherwise what all of them ask together."""
        for member in self.members:
            problem = member.problem
            alone = np.eye(len(problem.candidates), dtype=np.int64)
            if not problem.fits(alone).any():
                return f"{member.name}: {infeasibility(problem)}"
        return f"the devices together: {solution.reason}"


def _concluded(prepared: Prepared, answer: Answer, name: str, seconds: float) -> Planned:
    """The answer on one device, priced and checked there."""
    request = prepared.request
    solution = solve(
        prepared.problem, KnownAnswer(name, answer), device=request.device, target=request.target
    )
    return conclude(prepared, replace(solution, seconds=seconds))


__all__ = [
    "JoinedSeconds",
    "Member",
    "check_alike",
    "common_budget",
    "make_fleet_plan",
    "solve_fleet",
]
