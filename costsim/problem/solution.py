"""What a solver answers, and what `solve` makes of it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from costsim.ir.plan import UpdatePlan
from costsim.pricing.cost import Cost
from costsim.problem.problem import Problem


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


class Solver(Protocol):
    """An algorithm; its options are fields of the instance, `name` its textbook name."""

    @property
    def name(self) -> str: ...

    def __call__(self, problem: Problem) -> Answer: ...


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
