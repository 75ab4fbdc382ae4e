"""Every selection that the Lagrangian does not rule out, in blocks of states.

With multipliers m of bound L, an option that is not the best of its class loses
`(best net gain of the class) - (its own)` >= 0, and room that stays empty loses its price, so for
every selection within the limits

    gain  =  L  -  sum of losses  -  m (room - costs).

The selections with more than a given gain are therefore those whose losses, with the price of the
room they leave, stay below `L - gain`. They are built class by class; a state is a choice for the
first classes, dropped when

- its losses alone are too much,
- even the cheapest options of the other classes exceed a limit,
- even the most expensive ones leave too much room empty, or
- at other multipliers nothing that is left can make up for it: m is right for the case as a whole,
  but a state that has spent more of one row than of the others has its own prices.

The last classes are combined beforehand into one (`combined`), of which a state takes what fits
best. Blocks are as wide as memory allows and searched depth first, so that memory is bounded; what
is found lowers what may be lost from there on.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from costsim.pricing.table import Floats, Integers

from .combined import Level, alike, both, combine
from .dominance import undominated
from .lagrangian import CLOSED, Bound, Relaxation
from .resources import Booleans

BLOCK, MEMORY_BYTES = 1 << 17, 1 << 28
"""States that are extended at a time, at most, and about how much room all levels may take."""

FEW = 500
"""States among which looking for dominated ones does not pay."""

MANY_ROWS = 3
"""Kinds of rows from which on looking for dominated states does not pay."""

BEAM, EVERYTHING = 1000, 1 << 62
"""States of each depth that are followed at first, and then."""

SMALLER = 0.9
"""By how much less may be lost for the levels to be laid out again."""

STEEPNESS = (1.0, 4.0)
"""How far other multipliers are from m: what may be lost, for one deviation of the costs."""

ROUNDING_ERROR = 1e-13
"""Of sums of gains that are 1/2 to 1 altogether."""


@dataclass
class States:
    """Choices for the first classes: loss [S], costs [S, R], options [S, levels].

    `lost` [S] is at least what any selection that begins so loses.
    """

    loss: Floats
    costs: Floats
    chosen: Integers
    lost: Floats

    def take(self, which: Booleans | Integers | slice) -> "States":
        """Some of the states."""
        return States(self.loss[which], self.costs[which], self.chosen[which], self.lost[which])


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
        self._lay_out()

    def _lay_out(self) -> None:
        """The levels and rows that matter for what may be lost."""
        relaxation, bound = self.relaxation, self.bound
        levels = [self._level(row) for row in range(len(relaxation.forced))]
        room = relaxation.room + relaxation.resources.slack
        most_costs = np.asarray(sum(level.costs.max(axis=0) for level in levels))
        binding = np.flatnonzero(most_costs > room)
        others = np.setdiff1d(np.arange(len(room)), binding)
        self.room: Floats = room[binding]
        self.price: Floats = bound.multipliers[binding]
        # What rows that these options cannot exceed leave empty is lost as well: by all together,
        # and by each option that is not the dearest of its level.
        prices = bound.multipliers[others]
        self.start = float(prices @ np.maximum(relaxation.room[others] - most_costs[others], 0.0))
        self.levels = [self._priced(level, others, prices, binding) for level in levels]
        self.levels.sort(key=lambda level: (len(level.options), level.row))

    def _priced(self, level: Level, others: Integers, prices: Floats, binding: Integers) -> Level:
        """`level` in the binding rows alone, what it leaves empty of the others counted as loss.

        What even its best option loses goes to `start`.
        """
        costs = level.costs[:, others]
        loss = level.loss + (costs.max(axis=0) - costs) @ prices
        least = float(loss.min())
        self.start += least
        loss = loss - least
        left = np.flatnonzero(loss <= self.most - self.start)
        left = left[np.argsort(loss[left], kind="stable")]
        return Level(level.row, level.options[left], loss[left], level.costs[left][:, binding])

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
        if self.start > self.most:
            return
        # The most promising states alone find a selection that is good, and make less of the rest.
        whole = self.most
        if self._search(BEAM) or self.most <= self.start:
            return
        if self.most < SMALLER * whole:
            self._lay_out()
        if self.start <= self.most:
            self._search(EVERYTHING)

    def _search(self, beam: int) -> bool:
        """Follow `beam` states of each depth; whether those were all."""
        self.first, self.last = combine(self.levels, self.price, self.most - self.start)
        self._look_ahead()
        width = 8 * (len(self.room) + 2) * (len(self.first) + 1)
        self.block = max(1024, min(BLOCK, MEMORY_BYTES // width))
        nothing, rows = np.zeros(1), len(self.room)
        root = States(nothing, np.zeros((1, rows)), np.zeros((1, 0), dtype=np.int32), nothing)
        self.beam, self.all_seen = beam, True
        self._extend(root, 0)
        return self.all_seen

    def _look_ahead(self) -> None:
        """What the levels that come after each depth cost at least and at most, and can gain."""
        self.others: Floats = _other_prices(self.levels, self.price, self.most - self.start)
        depths, rows = len(self.first) + 1, len(self.room)
        self.least, self.greatest = np.zeros((depths, rows)), np.zeros((depths, rows))
        self.able = np.zeros((depths, self.others.shape[1]))
        self.base = np.zeros((depths, rows))
        self.groups = [np.zeros(rows, dtype=np.int64)] * depths
        levels = [*self.first, *self.last.levels]
        for i, level in reversed(list(enumerate(levels))):
            at = min(i, depths - 1)
            below = min(i + 1, depths - 1)
            gains = (level.costs @ self.price - level.loss)[:, None] - level.costs @ self.others
            self.least[at] = self.least[below] + level.costs.min(axis=0)
            self.greatest[at] = self.greatest[below] + level.costs.max(axis=0)
            self.able[at] = self.able[below] + gains.max(axis=0)
            self.base[at] = self.base[below] + level.costs[0]
            self.groups[at] = both(self.groups[below], alike(level.costs))

    def _extend(self, states: States, depth: int) -> None:
        """Search on from `states`, which are of the first `depth` levels."""
        if depth == len(self.first):
            self._finish(states)
            return
        level = self.first[depth]
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
                np.concatenate([s.lost for s in kept]),
            )
        if len(states.loss) > FEW:
            states = states.take(self._undominated(states, depth))
        if len(states.loss) > self.beam:
            self.all_seen = False
            states = states.take(np.argpartition(states.lost, self.beam)[: self.beam])
        states = states.take(np.argsort(states.loss, kind="stable"))
        self._extend(states, depth)

    def _undominated(self, states: States, depth: int) -> Integers:
        """Indices of states: of rows that the other levels cost alike only the fullest counts."""
        full = states.costs - self.room + self.base[depth]
        groups = self.groups[depth]
        if groups.max(initial=-1) >= MANY_ROWS:
            return np.arange(len(states.loss))
        fullest = [full[:, groups == g].max(axis=1) for g in range(groups.max(initial=-1) + 1)]
        costs = np.array(fullest).reshape(len(fullest), len(states.loss)).T
        return undominated(costs, states.costs @ self.price - states.loss)

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
        lost = loss[which] + wasted[which]
        if self.others.shape[1] and len(which):
            # L at the multipliers m is m room; what the state can still gain at others is less.
            dearer = left[which] @ (self.price[:, None] - self.others) - self.able[depth]
            lost = np.maximum(lost, dearer.max(axis=1) + loss[which])
            able = lost + self.start <= self.most + ROUNDING_ERROR
            which, lost = which[able], lost[able]
        new = level.options[option[which], None].astype(np.int32)
        chosen = np.hstack([states.chosen[parent[which]], new])
        return States(loss[which], costs[which], chosen, lost)

    def _finish(self, states: States) -> None:
        by_class = np.argsort([level.row for level in (*self.first, *self.last.levels)])
        left = self.room - states.costs
        self.tick()
        for which, options in self.last.completed(
            left, states.loss, lambda: self.most - self.start
        ):
            self.tick()
            if len(which):
                chosen = np.hstack([states.chosen[which], options])
                self.most = min(self.most, self.found(chosen[:, by_class]))


def _other_prices(levels: list[Level], price: Floats, most: float) -> Floats:
    """Multipliers [R, J] around `price` [R], in the directions in which costs vary together.

    They are as far away as makes one deviation of the costs worth `most`, or a few times that.
    """
    if len(price) < 2:
        return np.zeros((len(price), 0))
    variance = sum(np.cov(level.costs.T, bias=True) for level in levels)
    deviation = np.sqrt(np.diag(variance))
    steep = np.where(deviation > 0, most / np.maximum(deviation, 1e-300), 0.0)
    correlation = variance * np.outer(steep, steep) / most**2 if most > 0 else variance
    spread, directions = np.linalg.eigh(correlation)
    found = []
    for share, direction in zip(spread, directions.T, strict=True):
        if share > 1e-9:
            for far in STEEPNESS:
                change = far * direction * steep / np.sqrt(share)
                found += [price + change, price - change]
    others: Floats = np.maximum(np.array(found).reshape(-1, len(price)).T, 0.0)
    return others
