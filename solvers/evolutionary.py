"""The offline search by which SparseUpdate's schemes were found, with any gain and any budgets.

Lin et al., "On-Device Training Under 256KB Memory", NeurIPS 2022, section 3.2: the contribution of
each layer at a few ratios of its channels is analysed once; then an evolutionary search maximises
the sum of the contributions under a memory budget, an individual being one ratio a layer. Here the
contribution of the first k channels of a candidate is the sum of their scores, counts are free
rather than a few ratios, and the budgets are those of the problem.

What a child exceeds or leaves of the budgets is settled by `_Search.settle`: costs never fall when
a count grows, so a path of selections, each within the next, leads from nothing over the child to
the child with all channels of the candidates it opens, and bisection finds the last that fits.
Every individual is thus within the budgets, and the path, drawn at random, is part of the search.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from costsim.pricing.table import Floats, Integers
from costsim.problem.problem import Problem
from costsim.problem.solution import Answer, Clock, Deadline, Status

from .resources import Booleans

RATIOS = (0.125, 0.25, 0.5, 1.0)
"""Shares of a layer's channels that a mutation sets, those of the paper's schemes."""


@dataclass(frozen=True, slots=True)
class Evolutionary:
    """Evolution over a count for each candidate: no bound, but the same plan for the same seed.

    `generations` of `population` selections each; of every generation the best `parents` stay and
    breed. The seed is the problem's. A time limit, where one is set, ends it early: then the plan
    depends on the machine, and the status says so.
    """

    name: ClassVar[str] = "evolutionary"

    generations: int = 60
    population: int = 64
    parents: int = 16
    crossover: float = 0.5
    mutation: float = 0.1
    time_limit_s: float = float("inf")
    clock: Clock = "processor"

    def __call__(self, problem: Problem) -> Answer:
        return _Search(self, problem).run()


class _Search:
    def __init__(self, options: Evolutionary, problem: Problem) -> None:
        self.options, self.problem = options, problem
        # Doubles alone: other draws of numpy's generators may change between releases.
        self.random = np.random.default_rng(problem.seed).random
        self.sizes = np.array([c.size for c in problem.candidates], dtype=np.int64)
        self.deadline = Deadline.after(options.time_limit_s, options.clock)

    def run(self) -> Answer:
        count = len(self.sizes)
        nothing = np.zeros((1, count), dtype=np.int64)
        alone = np.eye(count, dtype=np.int64)
        # Costs only grow, so that a plan exists if one channel of some candidate fits.
        usable = self.problem.fits(alone)
        if not self.problem.fits(nothing)[0] or not usable.any():
            return Answer(None, Status.INFEASIBLE)
        # The contribution analysis: each candidate alone, as far as it fits.
        best = self._ranked(self.settle((alone * self.sizes)[usable]))
        status, reason = Status.FEASIBLE, ""
        try:
            best = self._ranked(self._distinct(best, self.settle(self._first(usable))))
            for _ in range(self.options.generations):
                if self.deadline.passed:
                    status, reason = Status.TIME_LIMIT, f"after {self.deadline}"
                    break
                parents = best[: self.options.parents]
                children = self.settle(self._children(parents, usable))
                best = self._ranked(self._distinct(parents, children))
        except KeyboardInterrupt:
            status, reason = Status.TIME_LIMIT, "interrupted"
        return Answer(self.problem.plan(best[0]), status, reason=reason)

    def _first(self, usable: Booleans) -> Integers:
        """A first generation: each individual opens each candidate behind some depth or not."""
        shape = (self.options.population, len(self.sizes))
        # Candidates are in the model's order: those behind a drawn place keep the backward short.
        place = np.arange(shape[1]) >= (self.random(shape[0]) * shape[1]).astype(np.int64)[:, None]
        opened = place & (self.random(shape) < 0.5) & usable
        return np.where(opened, self._drawn_counts(shape), 0)

    def _drawn_counts(self, shape: tuple[int, int]) -> Integers:
        drawn = np.array(RATIOS)[(self.random(shape) * len(RATIOS)).astype(np.int64)]
        counts: Integers = np.maximum(1, (drawn * self.sizes).astype(np.int64))
        return counts

    def _children(self, parents: Integers, usable: Booleans) -> Integers:
        """A generation: some of two parents, all mutated, and one in eight not of this family."""
        strangers = self._first(usable)[: self.options.population // 8]
        shape = (self.options.population - len(strangers), len(self.sizes))
        mother, father = (parents[self._drawn_rows(shape[0], len(parents))] for _ in range(2))
        mixed = self.random(shape[0]) < self.options.crossover
        children = np.where(mixed[:, None] & (self.random(shape) < 0.5), father, mother)
        mutated = (self.random(shape) < self.options.mutation) & usable
        closed = self.random(shape) < 0.5
        children = np.where(mutated, np.where(closed, 0, self._drawn_counts(shape)), children)
        return np.concatenate([children, strangers])

    def _drawn_rows(self, count: int, rows: int) -> Integers:
        # The best of two draws: better parents have more children.
        drawn = (self.random((2, count)) * rows).astype(np.int64)
        chosen: Integers = drawn.min(axis=0)
        return chosen

    def settle(self, selections: Integers) -> Integers:
        """For each selection the last one within the budgets on a random path through it.

        The path opens the selection's candidates one by one, in a drawn order; then it raises
        their counts to all channels, in another. Of candidates that exclude each other one that is
        drawn stays.
        """
        selections = selections.copy()
        for group in self.problem.exclusive:
            columns = np.array(group)
            drawn = np.where(selections[:, columns] > 0, self.random((len(selections), 1)), -1.0)
            drawn = drawn * (1.0 + self.random(drawn.shape))
            kept = np.argmax(drawn, axis=1)[:, None] == np.arange(len(columns))
            selections[:, columns] *= kept
        opening = np.argsort(np.argsort(self.random(selections.shape), axis=1), axis=1)
        raising = np.argsort(np.argsort(self.random(selections.shape), axis=1), axis=1)
        full = np.where(selections > 0, self.sizes, 0)
        width = len(self.sizes)
        resolution = int(2 ** np.ceil(np.log2(self.sizes.max() + 1)))

        def at(steps: Integers) -> Integers:
            """The selections after `steps` [selections] of `2 * width * resolution`."""
            place: Floats = steps[:, None] / resolution
            taken = np.clip(place - opening, 0.0, 1.0) * selections
            raised = np.clip(place - width - raising, 0.0, 1.0) * (full - selections)
            counts: Integers = taken.astype(np.int64) + raised.astype(np.int64)
            return counts

        low = np.zeros(len(selections), dtype=np.int64)
        high = np.full(len(selections), 2 * width * resolution + 1, dtype=np.int64)
        while (high - low > 1).any():
            middle = (low + high) // 2
            fits = self.problem.fits(at(middle))
            low, high = np.where(fits, middle, low), np.where(fits, high, middle)
        return at(low)

    @staticmethod
    def _distinct(first: Integers, second: Integers) -> Integers:
        together: Integers = np.unique(np.concatenate([first, second]), axis=0)
        return together

    def _ranked(self, selections: Integers) -> Integers:
        """Those that update anything, the greatest gain first; ties in a fixed order."""
        some = selections[selections.any(axis=1)]
        ranked: Integers = some[np.argsort(-self.problem.gains(some), kind="stable")]
        return ranked
