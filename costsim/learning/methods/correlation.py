"""Which score predicts the accuracy that a plan really reaches: plans to try, and rank correlation.

A criterion ranks plans of equal cost by the sum of its scores over what they train. It is worth as
much as that order agrees with the order of the accuracies after training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from costsim.ir.operators import UpdateKind
from costsim.ir.plan import UpdatePlan
from costsim.ir.program import plan_atoms
from costsim.learning.adaptation.method import Choice, Method, NothingFits
from costsim.learning.adaptation.situation import Situation
from costsim.problem.importance import ChannelScores, Importance, inspected_layers
from costsim.problem.solution import Solver
from costsim.run.criteria.base import Criterion
from costsim.solvers.exact import Exact
from costsim.solving.solve import solve_uninterrupted

WITH_BIASES = " +biases"
"""What the label of a plan that may have biases ends with."""

SPREADS = (0.3, 1.0, 2.5)
"""Of the logarithms of the weights of layers in random plans: from even to one layer alone."""


@dataclass(frozen=True)
class FixedPlan(Method):
    """A plan that was made before."""

    plan: UpdatePlan
    learning_rate: float = 0.001
    label: str = "plan"

    @property
    def name(self) -> str:
        """Its label."""
        return self.label

    def choose(self, situation: Situation) -> Choice:
        """The plan itself."""
        return Choice(self.plan)


@dataclass(frozen=True)
class Trial:
    """A plan to be tried, and how it was made."""

    label: str
    plan: UpdatePlan = field(repr=False)


def random_trials(
    situation: Situation,
    count: int,
    seed: int,
    *,
    inspect: int | None = None,
    solver: Solver | None = None,
    biases: bool = False,
) -> list[Trial]:
    """Random plans that fill the budgets: the best ones by scores that were drawn.

    A plan has a weight for each layer, log-normal with one of `SPREADS`, some layers left out, and
    a score for each channel, uniform times the layer's weight. The solver (by default the exact
    one) then fills the budgets, so that plans differ in what they train and hardly in what they
    cost. With `biases` every other three plans may have biases too, of which each has a weight of
    its own, and a score of up to as much as all channels of its layer; the channels' scores are
    the same with and without. Raises `NothingFits` if not even one channel is within the budgets.
    """
    rng = np.random.default_rng([0x434F5252, seed])
    layers = inspected_layers(situation.graph, inspect)
    chosen, found = solver or Exact(), []
    for number in range(count):
        spread = SPREADS[number % len(SPREADS)]
        weights = np.exp(spread * _normal(rng, len(layers))) * (rng.random(len(layers)) > 0.3)
        if not weights.any():
            weights[:] = 1
        channels = tuple(
            ChannelScores(
                layer,
                "output",
                tuple(
                    (
                        weight * rng.random(situation.graph.selectable_channels(layer, "output"))
                    ).tolist()
                ),
            )
            for layer, weight in zip(layers, weights, strict=True)
        )
        label = f"random {spread:g}"
        if biases and number // len(SPREADS) % 2:
            own = np.random.default_rng([0x42494153, seed, number])
            channels += _drawn_biases(situation, layers, spread, own)
            label += WITH_BIASES
        found.append(Trial(label, _plan(situation, Importance("drawn", channels), chosen)))
    return found


def _drawn_biases(
    situation: Situation, layers: Sequence[str], spread: float, rng: np.random.Generator
) -> tuple[ChannelScores, ...]:
    graph = situation.graph
    able = [layer for layer in layers if graph.selectable(layer, "bias")]
    weights = np.exp(spread * _normal(rng, len(able))) * (rng.random(len(able)) > 0.3)
    drawn = weights * rng.random(len(able))
    return tuple(
        ChannelScores(layer, "bias", (float(score) * graph.channels(layer, "output"),))
        for layer, score in zip(able, drawn, strict=True)
    )


def designed_trials(
    situation: Situation, importances: Mapping[str, Importance], solver: Solver | None = None
) -> list[Trial]:
    """The best plan by each criterion; where it scores biases, with them and without."""
    chosen, found = solver or Exact(), []
    for name, one in importances.items():
        channels = tuple(entry for entry in one.channels if entry.axis != "bias")
        found.append(Trial(name, _plan(situation, replace(one, channels=channels), chosen)))
        if channels != one.channels:
            found.append(Trial(name + WITH_BIASES, _plan(situation, one, chosen)))
    return found


def importances_of(
    situation: Situation,
    criteria: Mapping[str, Criterion],
    *,
    inspect: int | None,
    axes: tuple[UpdateKind, ...] = ("output",),
) -> dict[str, Importance]:
    """The scores of each criterion on the task's support images."""
    layers = inspected_layers(situation.graph, inspect)
    return {name: situation.score(one, layers, axes) for name, one in criteria.items()}


def _plan(situation: Situation, importance: Importance, solver: Solver) -> UpdatePlan:
    solution = solve_uninterrupted(situation.problem(importance), solver)
    if solution.plan is None:
        raise NothingFits(solution.reason or solution.status.sentence)
    return solution.plan


def predicted_gain(importance: Importance, plan: UpdatePlan) -> float:
    """The sum of the scores of the channels and biases that a plan trains."""
    return sum(gain_by_target(importance, plan).values())


def gain_by_target(importance: Importance, plan: UpdatePlan) -> dict[str, float]:
    """The same by what is trained, as `layer axis`: the parts of the sum."""
    return {
        f"{layer} {axis}": float(importance.scores(layer, axis)[list(channels)].sum())
        for (axis, layer), channels in plan_atoms(plan).items()
        if axis in importance.axes(layer)
    }


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Rank correlation, ties at their mean rank; 0 where one of the two is constant."""
    if len(set(first)) == 1 or len(set(second)) == 1:
        return 0.0
    return float(spearmanr(first, second).statistic)


def _normal(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Standard normal numbers from uniform doubles (Box and Muller, 1958)."""
    u, v = rng.random(count), rng.random(count)
    found: NDArray[np.float64] = np.sqrt(-2 * np.log(1 - u)) * np.cos(2 * np.pi * v)
    return found


__all__ = [
    "WITH_BIASES",
    "FixedPlan",
    "Trial",
    "designed_trials",
    "gain_by_target",
    "importances_of",
    "predicted_gain",
    "random_trials",
    "spearman",
]
