"""Every selection that the Lagrangian does not rule out, in blocks of states.

With multipliers m of bound L, an option that is not the best of its class loses
`(best net gain of the class) - (its own)` >= 0, and room that stays empty loses its price, so for
every selection within the limits

    gain  =  L  -  sum of losses  -  m (room - costs).

The selections with more than a given gain are therefore those whose losses, with the price of the
room they leave, stay below `L - gain`. They are built class by class; a state is a choice for the
first classes, dropped when

- its losses alone are too much,
- even the cheapest options of the other classes exceed a limit, or
- even the most expensive ones leave too much room empty.

The last class takes as many channels as fit. Blocks are as wide as memory allows and searched
depth first, so that memory is bounded; what is found lowers what may be lost from there on.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from costsim.table import Floats, Integers

from .lagrangian import CLOSED, Bound, Relaxation
from .resources import Booleans

BLOCK, MEMORY_BYTES = 1 << 17, 1 << 28
"""States that are extended at a time, at most, and about how much room all levels may take."""

FEW = 500
"""States among which looking for dominated ones does not pay."""


@dataclass
class Level:
    """The options of one class that lose little enough: loss [O], costs [O, R]."""

    row: int
    options: Integers
    loss: Floats
    costs: Floats


@dataclass
class States:
    """Choices for the first classes: loss [S], costs [S, R], options [S, levels]."""

    loss: Floats
    costs: Floats
    chosen: Integers

    def take(self, which: Booleans | Integers | slice) -> "States":
        """Some of the states."""
        return States(self.loss[which], self.costs[which], self.chosen[which])


class Enumeration:
    """The selections of a relaxation that lose at most `most`.

    `found(options)` is told options [S, classes] of selections within the limits, and answers how
    much may be lost from then on. `tick()` may raise.
    """

    def __init__(
        self,
        relaxation: Relaxation,
        bound: Bound,
        most: float,
        found: Callable[[Integers], float],
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self.relaxation, self.bound = relaxation, bound
        self.most, self.found, self.tick = most, found, tick
        self.states = 0
        levels = [self._level(row) for row in range(len(relaxation.forced))]
        levels.sort(key=lambda level: (len(level.options), level.row))
        room = relaxation.room + relaxation.resources.slack
        # Rows that these options cannot exceed only matter through their price, and have none.
        most_costs = sum(level.costs.max(axis=0) for level in levels)
        binding = np.flatnonzero(most_costs > room)
        self.room: Floats = room[binding]
        self.price: Floats = bound.multipliers[binding]
        # What the rows that cannot be exceeded leave empty is lost in any case.
        others = np.setdiff1d(np.arange(len(room)), binding)
        spare = relaxation.room[others] - np.asarray(most_costs)[others]
        self.start = float(bound.multipliers[others] @ np.maximum(spare, 0.0))
        self.levels = [
            Level(level.row, level.options, level.loss, level.costs[:, binding]) for level in levels
        ]
        width = 8 * (len(binding) + 2) * len(levels)
        self.block = max(1024, min(BLOCK, MEMORY_BYTES // width))
        self.least = np.zeros((len(levels) + 1, len(binding)))
        self.greatest = np.zeros((len(levels) + 1, len(binding)))
        for i in range(len(levels) - 1, -1, -1):
            self.least[i] = self.least[i + 1] + self.levels[i].costs.min(axis=0)
            self.greatest[i] = self.greatest[i + 1] + self.levels[i].costs.max(axis=0)

    def _level(self, row: int) -> Level:
        relaxation, bound, best = self.relaxation, self.bound, self.bound.best[row]
        found, losses, costs = [], [], []
        if not relaxation.forced[row] and best <= self.most:
            found.append(np.array([CLOSED]))
            losses.append(np.array([best]))
            costs.append(np.zeros((1, len(relaxation.room))))
        options = relaxation.options
        for index in relaxation.resources.classes[row]:
            start = int(options.starts[index])
            loss = best - bound.net[start : start + int(relaxation.resources.sizes[index])]
            k = np.flatnonzero(loss <= self.most)
            if len(k):
                found.append(start + k)
                losses.append(loss[k])
                costs.append(relaxation.costs_of(index, k))
        loss = np.concatenate(losses)
        order = np.argsort(loss, kind="stable")
        return Level(row, np.concatenate(found)[order], loss[order], np.vstack(costs)[order])

    def run(self) -> None:
        """Search all of it."""
        root = States(np.zeros(1), np.zeros((1, len(self.room))), np.zeros((1, 0), dtype=np.int32))
        if self.start <= self.most:
            self._extend(root, 0)

    def _extend(self, states: States, depth: int) -> None:
        if depth == len(self.levels):
            self._finish(states)
            return
        level = self.levels[depth]
        width = max(1, self.block // len(level.options))
        kept: list[States] = []
        waiting = 0
        for start in range(0, len(states.loss), width):
            self.tick()
            block = self._product(states.take(slice(start, start + width)), level, depth + 1)
            if len(block.loss):
                kept.append(block)
                waiting += len(block.loss)
            if waiting >= self.block:
                self._descend(kept, depth + 1)
                kept, waiting = [], 0
        if kept:
            self._descend(kept, depth + 1)

    def _descend(self, kept: list[States], depth: int) -> None:
        states = kept[0]
        if len(kept) > 1:
            states = States(
                np.concatenate([s.loss for s in kept]),
                np.vstack([s.costs for s in kept]),
                np.vstack([s.chosen for s in kept]),
            )
        if len(states.loss) > FEW:
            states = states.take(undominated(states.costs, states.loss, self.price))
        states = states.take(np.argsort(states.loss, kind="stable"))
        self._extend(states, depth)

    def _product(self, states: States, level: Level, depth: int) -> States:
        loss = states.loss[:, None] + level.loss
        parent, option = np.nonzero(loss + self.start <= self.most)
        self.states += len(parent)
        loss = loss[parent, option]
        costs = states.costs[parent] + level.costs[option]
        left = self.room - costs
        keep = (left >= self.least[depth]).all(axis=1)
        wasted = np.maximum(left - self.greatest[depth], 0.0) @ self.price
        keep &= loss + wasted + self.start <= self.most
        which = np.flatnonzero(keep)
        new = level.options[option[which], None].astype(np.int32)
        chosen = np.hstack([states.chosen[parent[which]], new])
        return States(loss[which], costs[which], chosen)

    def _finish(self, states: States) -> None:
        by_class = np.argsort([level.row for level in self.levels])
        self.most = min(self.most, self.found(states.chosen[:, by_class]))


def undominated(costs: Floats, loss: Floats, price: Floats) -> Integers:
    """Indices of states [S] without (some of) those that another one dominates.

    A state dominates another if it costs no more in any row and has gained no less; what has been
    gained is `m costs - loss` but for a constant.
    """
    gain = costs @ price - loss
    if costs.shape[1] == 1:
        order = np.lexsort((-gain, costs[:, 0]))
        reached = np.maximum.accumulate(gain[order])
        better = np.ones(len(order), dtype=bool)
        better[1:] = gain[order][1:] > reached[:-1]
        front: Integers = order[better]
        return front
    order = np.lexsort((-gain, *costs.T))
    same = np.zeros(len(order), dtype=bool)
    same[1:] = (costs[order][1:] == costs[order][:-1]).all(axis=1)
    left: Integers = order[~same]
    return left
