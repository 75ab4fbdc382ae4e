"""The ways of adapting by one recipe, and what each leaves of the budgets for a step.

What a whole adaptation costs is affine in what a step of its plan costs: every phase but training
does the same whatever is trained, and training is so many steps. So for each way of adapting (a
recipe, where it cuts the network, and where it keeps the values at the cut) the budgets of the
whole are budgets of a step. Nothing here chooses channels (see `side_search`): which ways there are
is told without a solver.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf

import numpy as np

from costsim.ir.cuts import cuts, last_frozen_cut, updated_layers
from costsim.ir.plan import UpdatePlan
from costsim.ir.recipe import CacheIn, Recipe
from costsim.planning.least_usage import LeastUsage
from costsim.planning.recipes import recomputes
from costsim.planning.task_on_device import Asked
from costsim.pricing.adaptation import AdaptationCost
from costsim.problem.budget import Budget
from costsim.problem.problem import Problem

SURE = 1e-6
"""By what share seconds are over a limit that is surely broken, however they were summed up."""


@dataclass(frozen=True)
class Side:
    """Steps of one kind: the choice of channels for them, and what prices an adaptation by them.

    The plan of `asked` is left aside.
    """

    problem: Problem
    asked: Asked


@dataclass(frozen=True)
class Way:
    """One way of adapting: what may be trained by it, and the budgets of a step that it leaves.

    `tight`: with what lies in RAM beside a step taken off.
    """

    recipe: Recipe
    layers: frozenset[str]
    budget: Budget
    tight: Budget

    def leaves_as_much(self, other: "Way") -> bool:
        """Whether it leaves at least as much of every budget as `other`, kept in the same place."""
        if self.recipe.cache_in != other.recipe.cache_in:
            return False
        pairs = (
            (getattr(a, name), getattr(b, name))
            for a, b in ((self.budget, other.budget), (self.tight, other.tight))
            for name in ("latency_s", "macs", "working_bytes")
        )
        return all(
            mine is None or (theirs is not None and mine >= theirs) for mine, theirs in pairs
        )


class Ways:
    """By steps of one kind: which ways there are by a recipe, and what each leaves for a step.

    `caches` says where values may be kept.
    """

    def __init__(self, side: Side, caches: tuple[CacheIn, ...]) -> None:
        self.problem, self.asked, self.caches = side.problem, side.asked, caches
        self._by_recipe: dict[Recipe, tuple[Way, ...] | None] = {}

    def may_keep(self, recipe: Recipe, plan: UpdatePlan) -> bool:
        """Whether `plan` may be within the budgets of the whole: told without compiling it.

        Not told of one that trains nothing, or what nobody asked about.
        """
        outlines, trained = self.outlines(recipe), updated_layers(plan)
        if outlines is None or not trained or not trained <= self._last_cuts.keys():
            return True
        return bool(self._able(outlines, plan))

    def holding(self, recipe: Recipe, plan: UpdatePlan) -> Iterator[Way]:
        """Ways of the recipe that may hold `plan`; where told, those that leave most seconds first.

        They train among its layers, and leave enough as far as their outlines say.
        """
        outlines, trained = self.outlines(recipe), updated_layers(plan)
        if outlines is None:
            for layers, names in self.groups(recipe):
                if trained <= layers:
                    yield from self.of_group(recipe, layers, names)
            return
        for outline in self._able(outlines, plan):
            by = outline.recipe
            way = self._left(by, outline.layers, self.asked.forward_cost(by))
            if way is not None:
                yield way

    def _able(self, outlines: Iterable[Way], plan: UpdatePlan) -> list[Way]:
        """The outlines that `plan` is within, those that leave most seconds first."""
        trained, costs = updated_layers(plan), self.problem.table.price_plan(plan)
        assert costs.step_s is not None
        step_s, macs = float(costs.step_s[0]), int(costs.backward_macs[0])
        found = [
            (inf if (limit_s := way.budget.latency_s) is None else limit_s, way)
            for way in outlines
            if trained <= way.layers and (way.budget.macs is None or macs <= way.budget.macs)
        ]
        able = [one for one in found if step_s <= one[0] * (1 + SURE)]
        return [way for _, way in sorted(able, key=lambda one: -one[0])]

    def groups(self, recipe: Recipe) -> Iterator[tuple[frozenset[str], tuple[str | None, ...]]]:
        """Sets of layers, those that contain others first, and the cuts before each of them.

        At last all layers with None for no cut: that leaves most to compute in every iteration.
        """
        if not recipe.augment or recipe.copies:
            yield from self._cuts.items()
        yield frozenset(self._last_cuts), (None,)

    @cached_property
    def _cuts(self) -> Mapping[frozenset[str], tuple[str, ...]]:
        """Cuts, from the last on, by the layers behind them that can be chosen, most first."""
        order = cuts(self.problem.graph)
        found: dict[frozenset[str], tuple[str, ...]] = {}
        for number in range(len(order) - 1, 0, -1):
            layers = frozenset(name for name, last in self._last_cuts.items() if last >= number)
            if layers:
                found[layers] = (*found.get(layers, ()), order[number])
        return dict(reversed(found.items()))

    def outlines(self, recipe: Recipe) -> tuple[Way, ...] | None:
        """Ways with at least the budgets that they leave, those that train most first.

        Told of the whole network's forward pass, but for what is kept in RAM, where room decides.
        None where that is not told: the whole has no room, or updates add less behind a cut.
        """
        if recipe not in self._by_recipe:
            plain = self.asked.forward_cost(replace(recipe, cut=None, cache_in="nothing"))
            told = plain.latency_s is not None and not recomputes(self.problem.step)
            found = self._outlined(recipe, plain) if told else ()
            most_first = tuple(sorted(found, key=lambda way: -len(way.layers)))
            self._by_recipe[recipe] = most_first if told else None
        return self._by_recipe[recipe]

    def _outlined(self, recipe: Recipe, plain: AdaptationCost) -> Iterator[Way]:
        """See `outlines`; of cuts before the same layers until no earlier one takes less."""
        least = LeastUsage(self.asked, recipe, plain)
        for layers, names in self.groups(recipe):
            fastest_s = inf
            for cut in names:
                if cut is not None and least.computing_s(cut) >= fastest_s:
                    break
                for cache_in in self._places(cut):
                    way = replace(recipe, cut=cut, cache_in=cache_in)
                    usage = self._usage(way, least)
                    budget = None if usage is None else self._budget(way, usage)
                    if usage is None or budget is None:
                        continue
                    assert usage["latency_s"] is not None
                    fastest_s = min(fastest_s, usage["latency_s"])
                    yield Way(way, layers, budget, budget)

    def _usage(self, way: Recipe, least: LeastUsage) -> Mapping[str, float | None] | None:
        """At least what a way takes without updates; None where it has no room."""
        if way.cut is None:
            return least.plain.usage
        if not least.may_have_room(way.cut, way.cache_in):
            return None
        if way.cache_in == "storage":
            usage = least.in_storage(way.cut)
            return None if "storage_bytes" in self.asked.task_budget.exceeded(usage) else usage
        cost = self.asked.forward_cost(way)
        return cost.usage if self._has_room(way, cost) else None

    def _places(self, cut: str | None) -> list[CacheIn]:
        """Where the values at a cut may be kept."""
        if cut is None:
            return ["nothing"]
        return [c for c in self.caches if c != "nothing" and self.asked.has_place(c)]

    def _has_room(self, way: Recipe, cost: AdaptationCost) -> bool:
        """Whether a way of such a cost without updates has room for all that it keeps."""
        if cost.latency_s is None or "storage_bytes" in self.asked.exceeded(cost):
            return False
        return self.asked.has_room(cost, way.cache_in)

    def of_group(
        self, recipe: Recipe, layers: frozenset[str], names: tuple[str | None, ...]
    ) -> Iterator[Way]:
        """Ways that train among the same layers.

        Those are left out that leave no more than one at a later cut: an earlier cut leaves more to
        compute, so that after one whose computing alone takes as long as a way before, none does.
        """
        seen: list[Way] = []
        fastest = inf
        for cut in names:
            computing = inf
            for cache_in in self._places(cut):
                way = replace(recipe, cut=cut, cache_in=cache_in)
                cost = self.asked.forward_cost(way)
                computing = min(computing, sum(phase.compute_s.value for phase in cost.phases))
                left = self._left(way, layers, cost)
                if left is None:
                    continue
                assert cost.latency_s is not None
                fastest = min(fastest, cost.latency_s.value)
                if not any(other.leaves_as_much(left) for other in seen):
                    seen.append(left)
                    yield left
            if computing >= fastest:
                return

    def _left(self, recipe: Recipe, layers: frozenset[str], cost: AdaptationCost) -> Way | None:
        """What a recipe of such a cost without updates leaves for a step; None: nothing."""
        if not self._has_room(recipe, cost):
            return None
        budget = self._budget(recipe, cost.usage)
        if budget is None:
            return None
        if recipe.cache_in != "ram":
            return Way(recipe, layers, budget, budget)
        room = self.asked.room_bytes - self.asked.lasting_bytes(recipe)
        tight = replace(budget, working_bytes=min(room, budget.working_bytes or room))
        return Way(recipe, layers, budget, tight)

    def _budget(self, recipe: Recipe, forward: Mapping[str, float | None]) -> Budget | None:
        """The budgets of a step with which the whole is within its own.

        `forward` is what all takes but what updates add to each step, of which there are so many.
        """
        task, own = self.asked.task_budget, self.problem.budget
        forward_s, forward_j, macs_taken = (
            forward[name] for name in ("latency_s", "energy_j", "macs")
        )
        assert forward_s is not None
        assert forward_j is not None
        assert macs_taken is not None
        steps = recipe.steps(self.asked.task.samples, self.problem.step.batch)
        left_s = []
        if task.latency_s is not None:
            left_s.append((task.latency_s - forward_s) / steps)
        if task.energy_j is not None:
            assert self.problem.compute_w is not None
            left_j = (task.energy_j - forward_j) / steps
            left_s.append(left_j / self.problem.compute_w)
        limits = [] if own.latency_s is None else [own.latency_s]
        if left_s:
            if min(left_s) < 0:
                return None
            limits.append(self.idle_s + min(left_s))
        macs = own.macs
        if task.macs is not None:
            if (left := task.macs - int(macs_taken)) < 0:
                return None
            macs = left // steps if macs is None else min(macs, left // steps)
        return replace(own, latency_s=min(limits, default=None), macs=macs)

    @cached_property
    def idle_s(self) -> float:
        """Seconds of a step of this side that updates nothing."""
        return idle_seconds(self.problem)

    @cached_property
    def _last_cuts(self) -> Mapping[str, int]:
        """Of each layer that can be chosen, the last cut before which it is not computed."""
        graph = self.problem.graph
        order = {name: number for number, name in enumerate(cuts(graph))}
        layers = dict.fromkeys(one.layer for one in self.problem.candidates)
        return {layer: order[last_frozen_cut(graph, (layer,))] for layer in layers}


def idle_seconds(problem: Problem) -> float:
    """Seconds of a step that updates nothing."""
    nothing = np.zeros((1, len(problem.table.atoms)), dtype=np.int64)
    step_s = problem.table.price(nothing).step_s
    assert step_s is not None
    return float(step_s[0])
