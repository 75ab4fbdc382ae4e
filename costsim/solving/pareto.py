"""The frontier of gain against one cost: every point proven, walked by the epsilon constraint.

Ask for the greatest gain within a budget; nothing that uses less gains as much once the same
question a step below the answer's own use gives a smaller gain. So the answer is a point that no
plan dominates, and the next question is asked a step below it (Haimes et al. 1971). For a picture
the budgets are spread evenly instead and each answer is brought down to its least use.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from costsim.base.errors import InputError
from costsim.base.progress import Progress, silent
from costsim.base.units import counted
from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.problem.budget import BUDGETS
from costsim.problem.problem import Problem
from costsim.problem.solution import Solution, Solver, Status
from costsim.solving.solve import relaxations, solve_uninterrupted

TIE = 1e-9
"""Gains that differ by less, relatively, are equal: what the proofs are accurate to."""

STEP_SHARE = 1e-9
"""A step down in seconds, relatively; bytes and MACs go down by one."""


@dataclass(frozen=True, slots=True)
class Point:
    """A plan on or beside the frontier.

    `kind` says who found it, `label` which of its kind it is; `budget` is what was allowed (None:
    nobody asked) and `used` what the plan takes, in bytes, MACs or seconds. `share` is of the full
    gain. `proven`: no plan that uses at most `budget` gains more than a relative 1e-9. `exceeds`
    names the other limits that the plan breaks, `unscored` counts channels that it updates
    although nobody scored them, whose gain is not in it.
    """

    kind: str
    label: str
    budget: float | None
    used: float
    gain: float
    share: float
    proven: bool
    plan: UpdatePlan
    exceeds: tuple[str, ...] = ()
    unscored: int = 0

    def to_json(self, order: Sequence[str]) -> dict[str, Any]:
        """One point of a frontier file, layers in the model's `order`."""
        return {
            "kind": self.kind,
            "label": self.label,
            "budget": self.budget,
            "used": self.used,
            "gain": self.gain,
            "share": self.share,
            "proven": self.proven,
            "exceeds": list(self.exceeds),
            "unscored_channels": self.unscored,
            "layers": self.plan.to_json([n for n in order if n in _updated(self.plan)]),
        }


@dataclass(frozen=True)
class Frontier:
    """Non-dominated points, least use first, and other plans beside them.

    `complete`: there are no other points within the limits. No points at all: no plan within the
    limits gains anything.
    """

    against: str
    full_gain: float
    points: tuple[Point, ...]
    beside: tuple[Point, ...] = ()
    complete: bool = False


def lifted(problem: Problem, limit: str) -> Problem:
    """`problem` with one limit raised to twice what updating everything takes: to no limit."""
    everything = np.array([[c.size for c in problem.candidates]])
    asked = within(problem, limit, 0)
    return within(problem, limit, 2 * asked.usage(everything)[limit][0].item())


def within(problem: Problem, limit: str, allowed: float) -> Problem:
    """`problem` with another amount of one limit."""
    changed: dict[str, Any] = {limit: allowed}
    return problem.within(replace(problem.budget, **changed))


def below(limit: str, amount: float) -> float:
    """The next amount below: a byte or a MAC less, or a relative 1e-9 of a second."""
    return amount * (1 - STEP_SHARE) if limit == "latency_s" else round(amount) - 1


def frontier(
    problem: Problem,
    solver: Solver,
    against: str,
    *,
    points: int | None = 20,
    beside: Sequence[Solver] = (),
    progress: Progress | None = None,
) -> Frontier:
    """The frontier of gain against `BUDGETS[against]` within the other limits of `problem`.

    `solver` must prove its answers. A limit that the budget sets on `against` is where the
    frontier ends. `points` budgets are spread evenly between the least that trains anything and
    what the greatest gain takes; None finds every point. The solvers `beside` answer within the
    same budgets. Raises `InputError` for an unknown `against`, fewer than 2 points, and scores
    that are all 0.
    """
    if against not in BUDGETS:
        raise InputError(f"against {against!r}; allowed are {', '.join(BUDGETS)}")
    if points is not None and points < 2:
        raise InputError(f"points is {points}; at least 2 are needed, or all")
    if not problem.importance.full_gain > 0:
        raise InputError("every score is 0; there is no gain to hold against anything")
    limit = BUDGETS[against]
    if getattr(problem.budget, limit) is None:
        problem = lifted(problem, limit)
    walk = _Walk(problem, solver, limit)
    report = progress or silent
    report("solving", 0, points or 0)
    found, budgets = [], []
    point = walk.at(getattr(problem.budget, limit))
    if point is not None and points is not None:
        least = relaxations(within(problem, limit, 0))[limit]
        assert least is not None
        budgets = _spread(least, point.used, points, limit)
        found.append(point)
        for done, budget in enumerate(budgets[:-1]):
            report("solving", done, len(budgets))
            point = walk.at(budget)
            if point is not None:
                found.append(point)
    elif points is None:
        while point is not None:
            found.append(point)
            report(f"walking down: {counted(len(found), 'point')}", 0, 0)
            point = walk.at(below(limit, point.used))
        budgets = [point.used for point in found]
    others = []
    for other in beside:
        for done, budget in enumerate(budgets):
            report(f"solving: {other.name}", done, len(budgets))
            solution = solve_uninterrupted(within(problem, limit, budget), other)
            if solution.plan is not None:
                others.append(walk.point(other.name, "", budget, solution.plan, False))
    return Frontier(
        against,
        problem.importance.full_gain,
        non_dominated(found),
        tuple(others),
        points is None and all(point.proven for point in found),
    )


def priced(problem: Problem, against: str, plan: UpdatePlan, kind: str, label: str) -> Point:
    """Any plan as a point beside a frontier, whether or not it is within the limits."""
    limit = BUDGETS[against]
    if getattr(problem.budget, limit) is None:
        problem = lifted(problem, limit)
    return _Walk(problem, None, limit).point(kind, label, None, plan, False)


def non_dominated(points: Sequence[Point]) -> tuple[Point, ...]:
    """The points that gain anything and that no other matches for less, least use first."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.used, -p.gain)):
        if point.gain > (kept[-1].gain * (1 + TIE) if kept else 0.0):
            kept.append(point)
    return tuple(kept)


class _Walk:
    def __init__(self, problem: Problem, solver: Solver | None, limit: str) -> None:
        self.problem, self.solver, self.limit = problem, solver, limit
        self.full = problem.importance.full_gain
        self.last: tuple[float, Solution] | None = None
        self.scored = {(c.layer, c.axis) for c in problem.candidates}

    def at(self, budget: float) -> Point | None:
        """The point of the greatest gain within `budget`, at its least use; None if none fits."""
        answer = self._solved(budget)
        if answer is None or answer.plan is None:
            return None
        plan, gain = self._without_worthless(answer.plan), answer.objective or 0.0
        proven = answer.status is Status.OPTIMAL
        used = self._used(plan)
        while proven:
            less = self._solved(below(self.limit, used))
            if less is None or less.plan is None or (less.objective or 0.0) < gain * (1 - TIE):
                break
            plan = self._without_worthless(less.plan)
            gain, used = self.problem.gain(plan), self._used(plan)
        assert self.solver is not None
        return self.point(self.solver.name, "", budget, plan, proven)

    def _solved(self, budget: float) -> Solution | None:
        assert self.solver is not None
        if budget < 0:
            return None
        if self.last is None or self.last[0] != budget:
            asked = within(self.problem, self.limit, budget)
            self.last = budget, solve_uninterrupted(asked, self.solver)
        return self.last[1]

    def _used(self, plan: UpdatePlan) -> float:
        return self.problem.plan_usage(plan)[self.limit]

    def _without_worthless(self, plan: UpdatePlan) -> UpdatePlan:
        """`plan` without the channels that gain nothing; of those there is no need to pay for."""
        gains = {
            (c.layer, c.axis): dict(zip(c.order, c.gains, strict=True))
            for c in self.problem.candidates
        }
        subsets = [
            ChannelSubset(
                s.layer, s.axis, tuple(c for c in s.channels if gains[s.layer, s.axis][c] > 0)
            )
            for s in plan.subsets
            if any(gains[s.layer, s.axis][c] > 0 for c in s.channels)
        ]
        biases = plan.biases & {subset.layer for subset in subsets}
        if any(axis == "bias" for _, axis in gains):  # biases are chosen for themselves
            worth = (n for n in plan.biases if gains.get((n, "bias"), {0: 0.0})[0] > 0)
            biases = frozenset(worth)
        return UpdatePlan(tuple(subsets), biases) if subsets or biases else plan

    def point(
        self, kind: str, label: str, budget: float | None, plan: UpdatePlan, proven: bool
    ) -> Point:
        usage, gain = self.problem.plan_usage(plan), self.problem.gain(plan)
        used = usage[self.limit]
        return Point(
            kind=kind,
            label=label,
            budget=budget,
            used=used if self.limit == "latency_s" else round(used),
            gain=gain,
            share=gain / self.full if self.full else 0.0,
            proven=proven,
            plan=plan,
            exceeds=tuple(n for n in self.problem.exceeded(plan) if n != self.limit),
            unscored=sum(
                len(s.channels) for s in plan.subsets if (s.layer, s.axis) not in self.scored
            ),
        )


def _updated(plan: UpdatePlan) -> frozenset[str]:
    return frozenset(plan.by_layer) | plan.biases


def _spread(least: float, most: float, points: int, limit: str) -> list[float]:
    """Budgets from `least` to `most`, evenly."""
    between = np.linspace(least, most, points).tolist()
    exact = between if limit == "latency_s" else [round(budget) for budget in between]
    return sorted({*exact[1:-1], least, most})
