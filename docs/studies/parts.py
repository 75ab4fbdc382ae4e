"""Plans of equal cost that differ in one thing: kind of layer, axis, biases or depth."""

from collections.abc import Sequence
from dataclasses import dataclass

from costsim.ir.operators import Axis
from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.learning.adaptation.method import Choice, Method, NothingFits
from costsim.learning.adaptation.situation import Situation
from costsim.learning.methods.tinytrain import TinyTrain
from costsim.problem.importance import Importance, inspected_layers
from costsim.run.criteria import make_criterion
from costsim.solving.solve import solve_uninterrupted

KINDS = ("expand", "depthwise", "project")
"""The convolutions of a block: wide, per channel, narrow."""

HALVINGS = 12
"""Of the share of channels that is searched for: to a four-thousandth of it."""


@dataclass(frozen=True)
class Part(Method):
    """The same share of the channels of each layer of one kind, as many as the budgets take.

    Which channels is nobody's choice: those with the largest weights. With `biases` those of all
    layers from block `first` on are trained too. Depthwise layers have one axis, `output`.
    """

    learning_rate: float = 0.001
    kind: str = "all"
    axis: Axis = "output"
    first: int = 0
    biases: bool = False

    @property
    def name(self) -> str:
        """What is trained, in words."""
        words = [self.kind, self.axis, f"from {self.first}"]
        return f"Part ({', '.join(words + ['biases'] * self.biases)})"

    def choose(self, situation: Situation) -> Choice:
        """Raises `NothingFits` where not even one channel a layer is within the budgets."""
        graph = situation.graph
        blocks = [name for name in graph.layers if name.startswith("blocks.")]
        deep = [name for name in blocks if int(name.split(".")[1]) >= self.first]
        kinds = KINDS if self.kind == "all" else (self.kind,)
        chosen = [name for name in deep if name.split(".")[2] in kinds]
        axes: dict[str, Axis] = {
            name: self.axis if graph.channels(name, self.axis) else "output" for name in chosen
        }
        scores = [situation.score("l2_norm", (name,), (axes[name],)) for name in chosen]
        problem = situation.problem(scores[0])
        fits, over = UpdatePlan(), 1.0
        biases = frozenset(deep) if self.biases else frozenset()
        share, step = 1.0, 0.5
        for _ in range(HALVINGS):
            plan = UpdatePlan(_largest(scores, share), biases)
            if problem.exceeded(plan):
                over, share = share, share - step
            else:
                fits, share = plan, min(share + step, over)
            step /= 2
        if not fits.subsets:
            raise NothingFits(f"{self.name}: no share of the channels is within the budgets")
        return Choice(fits)


def _largest(scores: Sequence[Importance], share: float) -> tuple[ChannelSubset, ...]:
    subsets = []
    for one in scores:
        (entry,) = one.channels
        order = sorted(range(len(entry.scores)), key=lambda channel: -entry.scores[channel])
        if chosen := order[: int(share * len(order))]:
            assert entry.axis != "bias"
            subsets.append(ChannelSubset(entry.layer, entry.axis, tuple(chosen)))
    return tuple(subsets)


@dataclass(frozen=True)
class OfKinds(TinyTrain):
    """TinyTrain that looks at layers of some kinds alone."""

    kinds: tuple[str, ...] = ("expand", "project")

    @property
    def name(self) -> str:
        """TinyTrain's, and the kinds."""
        return f"{super().name}: {', '.join(self.kinds)}"

    def choose(self, situation: Situation) -> Choice:
        """As TinyTrain, among as many layers."""
        layers = inspected_layers(situation.graph, self.inspect)
        chosen = tuple(name for name in layers if name.split(".")[-1] in self.kinds)
        importance = situation.score(make_criterion(self.criterion), chosen, self.axes)
        problem = situation.problem(importance, with_bias=self.with_bias)
        solution = solve_uninterrupted(problem, self.solver)
        if solution.plan is None:
            raise NothingFits(f"{self.name}: {solution.reason or solution.status.sentence}")
        return Choice(solution.plan, importance, problem, solution, chosen)
