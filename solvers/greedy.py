"""The paper's selection: layers by score per normalised cost, within a layer channels by score.

Kwon et al., "TinyTrain", ICML 2024: layers are taken in descending order of
`s_i = P_i / ((|W_i| / max |W|) (M_i / max M))` while the budgets hold; of each as many of its best
channels as still fit. Where biases may be chosen, each has its place in that order.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from costsim.ir.operators import UpdateKind
from costsim.pricing.table import Integers
from costsim.problem.importance import tinytrain_scores
from costsim.problem.problem import Problem
from costsim.problem.solution import Answer, Status

from .resources import Resources, resources

KINDS: tuple[UpdateKind, ...] = ("output", "input", "bias")


@dataclass(frozen=True, slots=True)
class Greedy:
    """TinyTrain's greedy. A layer of which nothing fits is passed over."""

    name: ClassVar[str] = "greedy"

    def __call__(self, problem: Problem) -> Answer:
        scores = {
            (layer, axis): score
            for axis in KINDS
            for layer, score in tinytrain_scores(problem.importance, problem.graph, axis).items()
        }
        order = sorted(
            range(len(problem.candidates)),
            key=lambda i: -scores[problem.candidates[i].layer, problem.candidates[i].axis],
        )
        costs = resources(problem)
        selection = np.zeros(len(problem.candidates), dtype=np.int64)
        for index in order:
            selection[index] = _most(costs, selection, index)
        if not selection.any():
            return Answer(None, Status.INFEASIBLE)
        return Answer(problem.plan(selection), Status.FEASIBLE)


def _most(costs: Resources, selection: Integers, index: int) -> int:
    """The most channels of one candidate that still fit; costs only grow with the count."""
    counts = np.arange(1, costs.sizes[index] + 1)
    trials = np.tile(selection, (len(counts), 1))
    trials[:, index] = counts
    return int(costs.fits(trials).sum())
