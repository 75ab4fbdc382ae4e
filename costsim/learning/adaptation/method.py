"""The interface of a method of adaptation."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from costsim.base.errors import InputError
from costsim.ir.operators import UpdateKind
from costsim.ir.plan import UpdatePlan
from costsim.ir.program import FISHER_WORK, ScoringWork
from costsim.ir.recipe import Recipe
from costsim.problem.importance import Importance
from costsim.problem.problem import Problem
from costsim.problem.solution import Solution

if TYPE_CHECKING:
    from costsim.learning.adaptation.guard.base import Guard
    from costsim.learning.adaptation.situation import Situation
    from costsim.learning.training.backbone import Backbone


class NothingFits(InputError):
    """No plan of this method is within the budgets; says what would do."""


@dataclass(frozen=True, eq=False)
class Choice:
    """What to update for one task, and what it was chosen by.

    `problem` and `solution` are there where a solver chose; `scored` are the layers that were
    scored on the task's samples, which takes time on the device (`scoring`), and is empty where
    none were; `scored_axes` along which, where no `importance` says so. `recipe`: how it is
    trained, where that was chosen with it.
    """

    plan: UpdatePlan
    importance: Importance | None = None
    problem: Problem | None = None
    solution: Solution | None = None
    scored: tuple[str, ...] = ()
    scoring: ScoringWork = FISHER_WORK
    recipe: Recipe | None = None
    scored_axes: tuple[UpdateKind, ...] = ()


class Method(ABC):
    """One way to adapt; subclasses are frozen dataclasses whose fields are options.

    `transductive`: it looks at the query images too, without their labels. `guard`: what keeps it
    from doing harm.
    """

    learning_rate: float
    transductive: bool = False
    guard: "Guard | None" = None
    plans_jointly: bool = False

    @property
    @abstractmethod
    def name(self) -> str:
        """As in the paper, options included: what a table calls it."""

    def backbone(self, backbone: "Backbone") -> "Backbone":
        """The network that is trained: the backbone itself, or one with modules added."""
        return backbone

    @property
    def needs_source(self) -> bool:
        """Whether it chooses by tasks of a source domain, which `informed` has yet to show it."""
        return False

    def informed(self, tasks: "Iterable[Situation]") -> "Method":
        """The same method having seen `tasks` of a source domain, once for all tasks to come."""
        return self

    def prepare(self, situation: "Situation") -> None:
        """Do what is done before there is a task, once; it does not count as choosing."""
        return

    @abstractmethod
    def choose(self, situation: "Situation") -> Choice:
        """What to update for this task.

        Raises `NothingFits` where no such plan is within the budgets, `InputError` where there is
        none for the network or a source is needed first.
        The situation's network is that of `backbone`. An empty plan trains nothing.
        """
