"""TinyTrain: the channels that matter most to this task within the budgets of the device."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from costsim.ir.operators import UpdateKind
from costsim.ir.program import ScoringWork
from costsim.learning.adaptation.joint import joint_question
from costsim.learning.adaptation.method import Choice, Method, NothingFits
from costsim.learning.adaptation.situation import Situation
from costsim.learning.methods.static import no_source, static_importance
from costsim.planning.joint import choose_jointly
from costsim.problem.importance import DEFAULT_INSPECTED_LAYERS, Importance, inspected_layers
from costsim.problem.solution import Solver
from costsim.run.criteria import make_criterion
from costsim.run.criteria.base import Criterion
from costsim.solvers.greedy import Greedy
from costsim.solving.solve import solve_uninterrupted


@dataclass(frozen=True)
class TinyTrain(Method):
    """Channels scored on the task's own samples by `criterion`, chosen by `solver`.

    Kwon et al., "TinyTrain", ICML 2024, has Fisher information and the greedy solver; others are
    its ablations, or more than it. With `bias` among the `axes` biases may be chosen too, each by
    its own score; `with_bias` trains those of the chosen layers instead. Only the last `inspect`
    layers are scored. With `static` the channels are the same for every task: they are chosen by
    `importance`, the mean scores of tasks of a source domain, which `informed` computes.
    """

    plans_jointly = True
    learning_rate: float = 0.001
    solver: Solver = field(default_factory=Greedy)
    criterion: str | Criterion = "fisher"
    inspect: int | None = DEFAULT_INSPECTED_LAYERS
    axes: tuple[UpdateKind, ...] = ("output",)
    with_bias: bool = False
    importance: Importance | None = None
    static: bool = False

    @property
    def name(self) -> str:
        """TinyTrain, and in brackets what is not as in the paper."""
        return self._named("TinyTrain", solver="greedy", criterion="fisher")

    def _named(self, name: str, *, solver: str, criterion: str) -> str:
        """With what is not as the method of this name has it."""
        told = [] if self.solver.name == solver else [self.solver.name]
        told += [] if self.criterion_name == criterion else [self.criterion_name]
        told += ["static"] if self.static or self.importance is not None else []
        scored = self.axes
        if self.importance is not None:
            scored = tuple(entry.axis for entry in self.importance.channels)
        told += ["biases"] if "bias" in scored else []
        told += ["with bias"] if self.with_bias else []
        return f"{name} ({', '.join(told)})" if told else name

    @property
    def criterion_name(self) -> str:
        """Of the criterion, whether it was given by name or as an instance."""
        return self.criterion if isinstance(self.criterion, str) else self.criterion.name

    @property
    def needs_source(self) -> bool:
        """See `Method.needs_source`."""
        return self.static and self.importance is None

    def informed(self, tasks: Iterable[Situation]) -> "TinyTrain":
        """See `Method.informed`; without `static` the method as it is."""
        if not self.needs_source:
            return self
        scores = static_importance(tasks, self.criterion, inspect=self.inspect, axes=self.axes)
        return replace(self, importance=scores)

    def prepare(self, situation: Situation) -> None:
        """The cost table, which is that of the network."""
        situation.tabulate(with_bias=self.with_bias)

    def choose(self, situation: Situation) -> Choice:
        """The solver's plan.

        Raises `NothingFits` where nothing is within the budgets, `InputError` for static channels
        without a source.
        """
        if self.needs_source:
            raise no_source(self.name)
        criterion = make_criterion(self.criterion)
        importance = self.importance
        scored: tuple[str, ...] = ()
        if importance is None:
            layers = inspected_layers(situation.graph, self.inspect)
            importance = situation.score(criterion, layers, self.axes)
            scored = layers if criterion.uses_samples else ()
        if situation.place.task_budget:
            return self._jointly(situation, importance, scored, criterion.work)
        problem = situation.problem(importance, with_bias=self.with_bias)
        solution = solve_uninterrupted(problem, self.solver)  # adapting prices it on the device
        if solution.plan is None:
            raise NothingFits(f"{self.name}: {solution.reason or solution.status.sentence}")
        return Choice(solution.plan, importance, problem, solution, scored, criterion.work)

    def _jointly(
        self,
        situation: Situation,
        importance: Importance,
        scored: tuple[str, ...],
        scoring: ScoringWork,
    ) -> Choice:
        """Channels and recipe within the budgets of the whole."""
        question = joint_question(situation, importance, scored, scoring, with_bias=self.with_bias)
        answer = choose_jointly(question, self.solver, situation.progress)
        solution, priced = answer.solution, answer.priced
        if solution.plan is None or priced is None:
            raise NothingFits(f"{self.name}: {solution.reason or solution.status.sentence}")
        recipe = replace(priced.recipe, cut=None, cache_in="nothing")
        return Choice(solution.plan, importance, answer.problem, solution, scored, scoring, recipe)
