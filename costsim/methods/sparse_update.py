"""SparseUpdate: one static scheme for all tasks, found offline.

Lin et al., "On-Device Training Under 256KB Memory", NeurIPS 2022.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from costsim.accounting.sparse_update import input_channel_norms, scheme_plan
from costsim.adaptation.method import Choice, Method, NothingFits
from costsim.adaptation.situation import Situation
from costsim.criteria import Criterion
from costsim.errors import InputError
from costsim.importance import (
    DEFAULT_INSPECTED_LAYERS,
    ChannelScores,
    Importance,
    inspected_layers,
)
from costsim.operators import UpdateKind
from costsim.plan import UpdatePlan
from costsim.solution import Solver
from costsim.solve import solve_uninterrupted
from costsim.solvers import Evolutionary
from costsim.solvers.static_scheme import published


@dataclass(frozen=True)
class SparseUpdate(Method):
    """A scheme that its authors published for the network: that of `size_kb`, or the largest.

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

    `importance` has such scores: `static_importance` of tasks from the source domain. Within the
    budgets of the device, so that for a smaller one it is another scheme.
    """

    learning_rate: float = 0.001
    importance: Importance | None = None
    solver: Solver = field(default_factory=Evolutionary)

    @property
    def name(self) -> str:
        """With where the scheme is from."""
        return "SparseUpdate (search)"

    def choose(self, situation: Situation) -> Choice:
        """Raises `InputError` without scores, and where nothing fits."""
        if self.importance is None:
            raise InputError(
                f"{self.name}: needs scores of tasks of another domain "
                "(costsim.methods.static_importance)"
            )
        problem = situation.problem(self.importance)
        solution = solve_uninterrupted(problem, self.solver)  # adapting prices it on the device
        if solution.plan is None:
            raise NothingFits(f"{self.name}: {solution.reason or solution.status.sentence}")
        return Choice(solution.plan, self.importance, problem, solution)


def static_importance(
    situations: Sequence[Situation],
    criterion: str | Criterion = "fisher",
    *,
    inspect: int | None = DEFAULT_INSPECTED_LAYERS,
    axes: tuple[UpdateKind, ...] = ("output",),
) -> Importance:
    """The mean of the scores of several tasks, each scaled to a sum of 1, for static choices.

    Raises `InputError` without tasks and where all scores of a task are 0.
    """
    if not situations:
        raise InputError("static scores are the mean over tasks; there are none")
    found = []
    for situation in situations:
        layers = inspected_layers(situation.graph, inspect)
        found.append(situation.score(criterion, layers, axes))
    totals = [sum(sum(entry.scores) for entry in one.channels) for one in found]
    if not all(totals):
        raise InputError("all scores of a task are 0: nothing to take a mean of")
    channels = []
    for entries in zip(*(one.channels for one in found), strict=True):
        scaled = [np.array(e.scores) / total for e, total in zip(entries, totals, strict=True)]
        mean: list[float] = np.mean(scaled, axis=0).tolist()
        channels.append(ChannelScores(entries[0].layer, entries[0].axis, tuple(mean)))
    return Importance(
        criterion=found[0].criterion,
        channels=tuple(channels),
        samples=sum(one.samples for one in found),
        seed=found[0].seed,
        source=f"the mean over {len(found)} tasks of {situations[0].task.source}",
    )
