"""What a solver answers, and what `solve` makes of it."""

import math
import os
import time
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from costsim.ir.plan import UpdatePlan
from costsim.pricing.cost import Cost
from costsim.problem.problem import Problem

Clock: TypeAlias = Literal["processor", "wall"]
"""By what a time limit is counted.

A default counts processor time, so that a busy machine gives the answer of an idle one; what a
person types counts the time on the wall, since that is what they wait for.
"""


@dataclass(frozen=True, slots=True)
class Deadline:
    """A time limit that has begun to run."""

    limit_s: float
    clock: Clock
    at_s: float

    @classmethod
    def after(cls, limit_s: float, clock: Clock) -> "Deadline":
        """`limit_s` seconds from now."""
        return cls(limit_s, clock, _now_s(clock) + limit_s)

    @property
    def left_s(self) -> float:
        """Seconds that are left; less than none once it has passed."""
        return self.at_s - _now_s(self.clock)

    @property
    def passed(self) -> bool:
        """Whether time is up."""
        return self.left_s < 0

    def __str__(self) -> str:
        told = {"processor": "of processor time", "wall": "by the clock"}[self.clock]
        return f"{self.limit_s:g} s {told}"


def _now_s(clock: Clock) -> float:
    """Seconds on the wall, or those of this process and of the solvers it has started."""
    if clock == "wall":
        return time.perf_counter()
    children = os.times()
    return time.process_time() + children.children_user + children.children_system


class Status(StrEnum):
    """How far an answer can be trusted; the values are for JSON, `sentence` is for people."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    INFEASIBLE = "infeasible"
    TIME_LIMIT = "time_limit"

    @property
    def sentence(self) -> str:
        """What the status means and what can be done about it."""
        return {
            "optimal": "proven: no plan within the budgets has a greater gain",
            "feasible": "within the budgets; a better plan may exist, an exact solver would tell",
            "infeasible": "no plan that this solver makes is within the budgets; relax one of them",
            "time_limit": "stopped at the time limit with the best plan so far; allow more time",
        }[self.value]


@dataclass(frozen=True, slots=True)
class Answer:
    """A solver's own words: a plan (None if infeasible), its status, and a bound on any gain.

    `bound` is None where the solver proves none. `reason` says in a few words why, where the
    status alone does not.
    """

    plan: UpdatePlan | None
    status: Status
    bound: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Aim:
    """Which gains are of interest to a search over many problems.

    A plan that gains no more than `above` is not: that there is none but such is an answer too,
    infeasible, whose bound is `above`. One that gains `enough` ends the search, proven best or not.
    """

    above: float = -math.inf
    enough: float = math.inf


ANY_GAIN = Aim()


@runtime_checkable
class Solver(Protocol):
    """An algorithm; its options are fields of the instance, `name` its textbook name."""

    @property
    def name(self) -> str:
        """Its textbook name."""

    def __call__(self, problem: Problem) -> Answer:
        """The plan chosen for `problem`, and what is proven of it."""


def aiming(solver: Solver, aim: Aim) -> Solver:
    """`solver` with an `aim`; one that can have none is as it is, slower and no less right."""
    if not hasattr(solver, "aim"):
        return solver
    aimed: Solver = replace(solver, aim=aim)  # type: ignore[type-var]
    return aimed


@dataclass(frozen=True, slots=True)
class Solution:
    """An answer that was priced again: its plan is within the budgets of its problem.

    `objective` is the gain; `gap` is `(bound - objective) / bound`, None without a bound.
    """

    solver: str
    plan: UpdatePlan | None
    cost: Cost | None
    status: Status
    objective: float | None
    bound: float | None
    seconds: float
    reason: str = ""

    @property
    def gap(self) -> float | None:
        """Share of the bound that the objective may miss."""
        if self.bound is None or self.objective is None:
            return None
        return 0.0 if self.bound <= 0 else max(0.0, (self.bound - self.objective) / self.bound)

    def to_json(self) -> dict[str, Any]:
        """The `solver` of a plan file."""
        return {
            "name": self.solver,
            "status": str(self.status),
            "objective": self.objective,
            "bound": self.bound,
            "gap": self.gap,
            "seconds": self.seconds,
        }
