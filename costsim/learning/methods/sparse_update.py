"""SparseUpdate: one static scheme for all tasks, found offline.

Lin et al., "On-Device Training Under 256KB Memory", NeurIPS 2022.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from costsim.base.errors import InputError
from costsim.ir.plan import UpdatePlan
from costsim.learning.adaptation.method import Choice, Method, NothingFits
from costsim.learning.adaptation.situation import Situation
from costsim.learning.methods.static import no_source, static_importance
from costsim.pricing.accounting.sparse_update import input_channel_norms, scheme_plan
from costsim.problem.importance import Importance, inspected_layers
from costsim.problem.solution import Solution, Solver
from costsim.solvers.evolutionary import Evolutionary
from costsim.solvers.static_scheme import published
from costsim.solving.solve import solve_uninterrupted


@dataclass(frozen=True)
class SparseUpdate(Method):
    """A scheme that its authors published for the network: that of `size_kb`, or the largest.

    By its backward MACs the one that TinyTrain's paper compares with is that of 99 kB.
    Whatever the budgets, as in the paper, unless `within_budgets`. Of each layer the input
    channels with the largest weights are trained.
    """

    learning_rate: float = 0.0003
    size_kb: int | None = None
    within_budgets: bool = False

    @property
    def name(self) -> str:
        """With the published size, where one was asked for."""
        return "SparseUpdate" if self.size_kb is None else f"SparseUpdate-{self.size_kb}kB"

    def choose(self, situation: Situation) -> Choice:
        """Raises `InputError` for a network without such a scheme, or if none is within budgets."""
        graph = situation.graph
        schemes = published(graph)
        if not schemes:
            raise InputError(f"{self.name}: no scheme was published for {situation.backbone.name}")
        if self.size_kb is not None:
            sizes = ", ".join(str(scheme.size_kb) for scheme in schemes)
            schemes = [scheme for scheme in schemes if scheme.size_kb == self.size_kb]
            if not schemes:
                raise InputError(f"{self.name}: published for it are {sizes} kB")
        tensors = situation.backbone.tensors
        norms = input_channel_norms(
            graph, {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
        )
        for scheme in schemes:
            plan = scheme_plan(graph, scheme, norms)
            if not self.within_budgets or not _exceeds(situation, plan):
                return Choice(plan)
        raise NothingFits(f"{self.name}: no published scheme is within the budgets")


def _exceeds(situation: Situation, plan: UpdatePlan) -> bool:
    scores = situation.score("l2_norm", inspected_layers(situation.graph, 1))
    return bool(situation.problem(scores).exceeded(plan))


@dataclass(frozen=True)
class SearchedScheme(Method):
    """A scheme found as SparseUpdate's were: by evolution, on scores that are of no one task.

    `importance` has such scores: the `static_importance` of tasks of a source domain, which
    `informed` computes. Within the budgets of the device, so that for a smaller one it is another
    scheme. It is searched once for a network, a device and its budgets, before any task is known.
    Only where a task exceeds it (a limit on MACs or seconds that is no share, and more images)
    it is searched for as many images as the task has.
    """

    learning_rate: float = 0.001
    importance: Importance | None = None
    solver: Solver = field(default_factory=Evolutionary)
    seed: int = 0

    @property
    def name(self) -> str:
        """With where the scheme is from."""
        return "SparseUpdate (search)"

    @property
    def needs_source(self) -> bool:
        """See `Method.needs_source`."""
        return self.importance is None

    def informed(self, tasks: Iterable[Situation]) -> "SearchedScheme":
        """See `Method.informed`."""
        return replace(self, importance=static_importance(tasks))

    def prepare(self, situation: Situation) -> None:
        """Search; raises `InputError` without scores."""
        if self.importance is None:
            raise no_source(self.name)
        self._before(situation)

    def choose(self, situation: Situation) -> Choice:
        """Raises `InputError` without scores, and where nothing fits."""
        if self.importance is None:
            raise no_source(self.name)
        problem = situation.problem(self.importance)
        solution = self._before(situation)
        if solution.plan is None or problem.exceeded(solution.plan):
            solution = self._searched(situation, situation.samples)
        if solution.plan is None:
            raise NothingFits(f"{self.name}: {solution.reason or solution.status.sentence}")
        return Choice(solution.plan, self.importance, problem, solution)

    def _before(self, situation: Situation) -> Solution:
        """Searched before any task is known.

        Two passes take the memory that any more take, and a share of their MACs is one of any.
        """
        return self._searched(situation, 2 * situation.recipe.micro_batch)

    def _searched(self, situation: Situation, samples: int) -> Solution:
        """The scheme for a step of so many images, searched once."""
        importance = self.importance
        assert importance is not None

        def search() -> Solution:
            problem = situation.problem(importance, samples=samples)
            problem.seed = self.seed
            return solve_uninterrupted(problem, self.solver)

        step = situation.step_over(samples)
        return situation.on_device(("scheme", self, step, situation.place.budget), search)
