"""Best-first search over cases: the one with the greatest bound is always the one worked on.

A case waits with the best bound known of it. When its turn comes it is, in this order, bounded at
multipliers that were found for others; bounded by its linear relaxation; split at what leaves its
costs undecided; split at a candidate that the relaxation opens by half; or looked at: all of its
selections that lose at most D of the bound. If there is any, the best of them is the optimum of
the case; if there is none, its bound falls by D, and D grows. So no good plan is needed to begin
with, and the work is what the optimum's own loss takes.

The greatest bound that waits is a bound on every plan at any moment; when it is no greater than
the gain of the best plan, that plan is optimal.
"""

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from costsim.ir.plan import UpdatePlan
from costsim.pricing.table import Floats, Integers
from costsim.problem.problem import Problem
from costsim.problem.solution import ANY_GAIN, Aim, Answer, Deadline, Status

from .cases import Case, Cases
from .greedy import Greedy
from .lagrangian import CLOSED, Bound, Options, Relaxation, rounded
from .resources import resources

TIE, ROUNDING_ERROR = 1e-10, 1e-14
"""Gains that differ by less are equal: relatively, and as a share of all gains."""

FIRST_LOSS = 2.0**-20
"""The loss that is looked at first, as a share of all gains."""

GROWTH, MOST_GROWTH, CHEAP = 1.5, 4.0, 5_000
"""By how much that loss grows, at least and at most, and the states of a look that take no longer
than its preparation: up to them it grows faster.
"""

RECENT = 8
"""How many of the multipliers found last a case is tried at before its relaxation is solved."""

MANY = 200_000
"""States of a look after which splitting the case is better than another one."""


class OutOfTime(Exception):
    """The time limit has passed."""


@dataclass(order=True)
class _Node:
    """A case in the queue: the greatest bound first, then the order in which they came."""

    key: float
    number: int
    case: Case = field(compare=False)
    relaxation: Relaxation | None = field(compare=False, default=None)
    bound: Bound | None = field(compare=False, default=None)
    tried: int = field(compare=False, default=0)
    """How many of the multipliers found elsewhere its bound has seen."""
    lost: float = field(compare=False, default=0.0)
    """No selection of the case loses less than this of `bound`."""
    states: int = field(compare=False, default=0)
    """What it took to find that out."""

    def next_loss(self) -> float:
        """What to look at next: states grow about with the square of the loss."""
        return self.lost * min(max(GROWTH, math.sqrt(CHEAP / max(self.states, 1))), MOST_GROWTH)


Look: TypeAlias = Callable[
    [Relaxation, Bound, float, Callable[[Integers], float], Callable[[], None]], int
]
"""Looks at every selection of a decided case that loses at most the float of the bound.

Calls the first function with options [S, classes] of selections within the limits, the best of the
case among them if there is any; it answers how much may be lost from then on. The second may be
called at any time and raises when time is up. Returns the work it took, in states.
"""


def _quick(problem: Problem) -> UpdatePlan | None:
    """The paper's plan, which takes milliseconds, for a search stopped before its first look."""
    return Greedy()(problem).plan


class Search:
    """Best-first search over the cases of a problem; `look` decides those that are decided."""

    def __init__(
        self, problem: Problem, deadline: Deadline, look: Look, aim: Aim = ANY_GAIN
    ) -> None:
        self.problem, self.look, self.deadline, self.aim = problem, look, deadline, aim
        self.options = Options.of(problem)
        self.resources = resources(problem)
        self.cases = Cases(self.resources)
        # Of the case in which nothing is decided all that is known is a bound of everything.
        self.queue = [_Node(-1.0, 0, self.cases.root())]
        self.number = 0
        self.best: Integers | None = None
        self.gain = aim.above * self.options.scale
        self.enough = aim.enough * self.options.scale
        self.multipliers: list[Floats] = [np.zeros(len(self.resources.room))]

    def run(self) -> Answer:
        """The proven optimum, or the best plan when time ran out or the user had enough."""
        try:
            while self.queue and not self._settled(-self.queue[0].key) and not self._enough():
                self._tick()
                self._work(self.queue[0])
        except (KeyboardInterrupt, OutOfTime) as stop:
            return self._stopped(stop)
        if self.best is None:
            above = self.aim.above
            return Answer(None, Status.INFEASIBLE, None if above == -math.inf else above)
        objective = float(self.problem.gains(self.best[None])[0])
        if self.queue and -self.queue[0].key > self._tie():
            bound = max(objective, -self.queue[0].key / self.options.scale)
            return Answer(self.problem.plan(self.best), Status.FEASIBLE, bound)
        return Answer(self.problem.plan(self.best), Status.OPTIMAL, objective)

    def _stopped(self, stop: BaseException) -> Answer:
        interrupted = isinstance(stop, KeyboardInterrupt)
        why = "interrupted" if interrupted else f"after {self.deadline}"
        everything = float(sum(c.cumulative[-1] for c in self.problem.candidates))
        left = max((-node.key for node in self.queue), default=np.inf)
        bound = min(max(left, self.gain) / self.options.scale, everything)
        plan = _quick(self.problem) if self.best is None else self.problem.plan(self.best)
        if plan is None and not interrupted:
            why = f"no plan found within {self.deadline}"
        return Answer(plan, Status.TIME_LIMIT, bound, why)

    def _tick(self) -> None:
        if self.deadline.passed:
            raise OutOfTime

    def _settled(self, bound: float) -> bool:
        return bound <= self._tie()

    def _enough(self) -> bool:
        return self.best is not None and self.gain >= self.enough

    def _tie(self) -> float:
        """Gains up to this are no better than the best."""
        return self.gain + max(TIE * self.gain, ROUNDING_ERROR)

    # Cases.

    def _push(self, case: Case, above: float) -> None:
        """Queue a case unless it is infeasible or cannot be better than the best plan.

        It is bounded by what bounds its parent, and at multipliers found before.
        """
        costs = self.cases.costs(case)
        relaxation = Relaxation(self.resources, self.options, case, costs)
        if not relaxation.feasible():
            return
        bound = relaxation.at(self.multipliers[-1])
        value = min(bound.value, above)
        if self._settled(value):
            return
        self.number += 1
        tried = len(self.multipliers)
        node = _Node(-value, self.number, case, relaxation, bound, tried)
        heapq.heappush(self.queue, node)

    def _work(self, node: _Node) -> None:
        """Bound the first case of the queue better, split it, or search it a little further."""
        relaxation, bound = node.relaxation, node.bound
        if relaxation is None or bound is None:  # nothing is decided: what is opened first?
            everything = np.ones(self.cases.width, dtype=bool)
            self._split(node, self.cases.branch(node.case, everything)[:-1])
            return
        if not bound.mix and node.tried < len(self.multipliers):
            others = self.multipliers[max(node.tried, len(self.multipliers) - RECENT) :]
            tries = [bound, *(relaxation.at(m) for m in others)]
            node.bound, node.tried = min(tries, key=lambda b: b.value), len(self.multipliers)
            self._requeue(node, min(node.bound.value, -node.key))
            return
        if not bound.mix:
            below = self._tie()
            node.bound = relaxation.solve(bound, below)
            if node.bound.mix:
                self.multipliers.append(node.bound.multipliers)
                self._consider(rounded(relaxation, node.bound)[None])
            self._requeue(node, min(node.bound.value, -node.key))
            return
        undecided = relaxation.costs.undecided
        if undecided is not None:
            self._split(node, self.cases.branch(node.case, undecided))
        elif (torn := self._torn(node, relaxation, bound)) is not None:
            closed = np.arange(self.cases.width) == torn
            opened = node.case.open(torn, self.cases.excludes)
            self._split(node, [opened, node.case.close(closed)])
        else:
            most = min(max(FIRST_LOSS, node.next_loss()), bound.value - self.gain)
            node.states = self._look(relaxation, bound, most)
            node.lost = most
            self._requeue(node, min(-node.key, bound.value - most))

    def _torn(self, node: _Node, relaxation: Relaxation, bound: Bound) -> int | None:
        """A candidate that the relaxation opens by half, or that makes a case too wide to look at.

        The fixed charges of candidates are what the bound misses: deciding one moves it.
        """
        assert bound.mix
        share = np.zeros(self.cases.width)
        for mix in bound.mix:
            for option, weight in mix:
                if option != CLOSED:
                    share[self.options.candidate[option]] += weight
        half = np.minimum(share, 1.0 - share)
        if half.max() > 1e-6:
            return int(np.argmax(half))
        if node.states <= MANY:
            return None
        most = min(node.next_loss(), bound.value - self.gain)
        net = np.maximum.reduceat(bound.net, self.options.starts)
        best = bound.best[relaxation.class_of]
        loss = np.where(share > 0, best, best - net)
        undecided = (loss <= most) & ~(node.case.opened | node.case.closed)
        undecided &= ~relaxation.forced[relaxation.class_of]
        if not undecided.any():
            return None
        return int(np.argmax(np.where(undecided, loss, -1.0)))

    def _split(self, node: _Node, children: list[Case]) -> None:
        """Put `children` in the place of the first case of the queue.

        It stays until they are there, so that an interruption finds all that is left.
        """
        for case in children:
            self._push(case, -node.key)
        self.queue.remove(node)
        heapq.heapify(self.queue)

    def _requeue(self, node: _Node, value: float) -> None:
        """Put the first case of the queue back with a new bound."""
        node.key = -value
        if self._settled(value):
            heapq.heappop(self.queue)
        else:
            heapq.heapreplace(self.queue, node)

    def _look(self, relaxation: Relaxation, bound: Bound, most: float) -> int:
        """Look at every selection that loses at most `most`; returns the work that took."""

        def found(options: Integers) -> float:
            self._consider(options)
            return bound.value - self.gain

        return self.look(relaxation, bound, most, found, self._tick)

    def _consider(self, options: Integers) -> None:
        """Take the best of these selections that is within the limits, if it is a better one."""
        gains = np.where(options == CLOSED, 0.0, self.options.gain[options]).sum(axis=1)
        better = np.flatnonzero(gains > self._tie())
        for index in better[np.argsort(-gains[better], kind="stable")].tolist():
            selection = np.zeros(self.cases.width, dtype=np.int64)
            chosen = options[index][options[index] != CLOSED]
            selection[self.options.candidate[chosen]] = self.options.count[chosen].astype(np.int64)
            if self.problem.fits(selection[None])[0]:
                self.best, self.gain = selection, float(gains[index])
                return
