"""Where a network is cut for a task, and where what its frozen part computes is kept."""

from dataclasses import dataclass, replace
from typing import Any

from costsim.base.errors import InputError
from costsim.base.units import format_bytes, format_seconds
from costsim.ir.cuts import updated_layers
from costsim.ir.program.adaptation import frozen_cuts
from costsim.ir.recipe import CacheIn, Recipe
from costsim.ir.step import TrainingStep
from costsim.planning.least_usage import LeastUsage
from costsim.planning.task_on_device import Asked
from costsim.pricing.adaptation import AdaptationCost


@dataclass(frozen=True)
class PricedRecipe:
    """A recipe and the price of an adaptation by it. `uncached`: what it would be without a cut."""

    recipe: Recipe
    cost: AdaptationCost
    uncached: AdaptationCost

    def to_json(self) -> dict[str, Any]:
        """As one JSON object: the recipe, and its price."""
        without = self.uncached.latency_s
        return {
            "recipe": self.recipe.to_json(),
            **self.cost.to_json(),
            "uncached_s": None if without is None else without.to_json(),
        }

    @property
    def sentence(self) -> str:
        """What was chosen, and what the alternative would have cost."""
        whole, without = self.cost.latency_s, self.uncached.latency_s
        if self.recipe.cut is None or whole is None:
            return "nothing of the frozen part is kept: it is computed anew for every image shown"
        kept = sum(self.cost.stored_bytes.values())
        told = f"cut at {self.recipe.cut}, values before it kept in {self.recipe.cache_in}"
        if without is None:
            return told
        room = f" ({format_bytes(kept)} with the images)" if kept else ""
        return f"{told}{room}; without, {format_seconds(without.value)}"


def choose_cache(asked: Asked, recipe: Recipe, caches: tuple[CacheIn, ...]) -> PricedRecipe:
    """`recipe` with the cut and the cache, out of `caches`, that take the fewest seconds.

    What is kept changes no result, so that it is chosen by cost alone, of ways within the budgets
    of the whole where there are any: all cuts before which nothing is trained, those first that may
    take least, until none that is left can take less. A cache must fit in its place, in RAM within
    the budget too. Where a phase does not fit on the device nothing is kept. Raises `InputError`
    where storage alone is asked for and the device has none.
    """
    if caches == ("storage",) and not asked.has_place("storage"):
        raise InputError(
            f"cache in storage: {asked.device.name} has no memory of kind storage that says its "
            "read_bandwidth and write_bandwidth"
        )
    plain = replace(recipe, cut=None, cache_in="nothing")
    uncached = asked.cost(plain)
    best = PricedRecipe(plain, uncached, uncached)
    trains = bool(asked.plan.subsets or asked.plan.biases)
    shown_once = recipe.augment and not recipe.copies
    if not trains or shown_once or uncached.latency_s is None:
        return best
    forward = asked.forward_cost(plain)
    updates_s = 0.0 if recomputes(asked.step) else _seconds(uncached) - _seconds(forward)
    fastest_s = float("inf") if asked.exceeded(uncached) else _seconds(uncached)
    for least_s, computing_s, way in _promising(asked, LeastUsage(asked, recipe, forward), caches):
        if not asked.exceeded(best.cost) and _seconds(best.cost) <= least_s + updates_s:
            break  # of the rest none takes less
        # Room that forward passes lack there is none of with updates: they need not be compiled.
        if computing_s + updates_s > fastest_s or not asked.has_room(
            asked.forward_cost(way), way.cache_in
        ):
            continue
        cost = asked.cost(way)
        if "storage_bytes" not in asked.exceeded(cost):
            fastest_s = min(fastest_s, _seconds(cost))
        better = _worth(asked, cost) < _worth(asked, best.cost)
        if better and asked.has_room(cost, way.cache_in):
            best = PricedRecipe(way, cost, uncached)
    return best


def unkept(asked: Asked, priced: PricedRecipe, caches: tuple[CacheIn, ...]) -> str | None:
    """Why nothing is kept in the one place that a person asked for; None where something is.

    And where nothing fits at all, of which more is to be said.
    """
    (place, *others), recipe = caches, priced.recipe
    if others or place == "nothing" or recipe.cut is not None or priced.cost.latency_s is None:
        return None
    told = f"nothing of the frozen part is kept in {place}"
    if recipe.augment and not recipe.copies:
        return f"{told}: no image is shown twice where every iteration changes it anew (--copies)"
    frozen = frozen_cuts(asked.graph, updated_layers(asked.plan))
    ways = [replace(recipe, cut=cut, cache_in=place) for cut in frozen]
    costs = [asked.forward_cost(way) for way in ways]
    if not costs:
        return f"{told}: what comes first is trained, so that all is computed anew"
    storage = {cost.stored_bytes.get("storage", 0) for cost in costs}
    within = [c for c in costs if "storage_bytes" not in asked.exceeded(c)]
    if any(asked.has_room(cost, place) for cost in within):
        return f"{told}: it would take longer than computing it anew"
    if place == "ram":
        return f"{told}: there is no room for it beside what a step takes (--memory)"
    limit = asked.task_budget.storage_bytes
    room = min(asked.device.storage_bytes, asked.device.storage_bytes if limit is None else limit)
    return (
        f"{told}: with the images it takes {format_bytes(min(storage))} or more, and there is "
        f"room for {format_bytes(room)} (--storage, --copies)"
    )


def recomputes(step: TrainingStep | None) -> bool:
    """Whether what updates add to a step depends on the cut: on what is computed again from it."""
    return step is not None and bool(step.recompute)


def _promising(
    asked: Asked, least: LeastUsage, caches: tuple[CacheIn, ...]
) -> list[tuple[float, float, Recipe]]:
    """The recipe with each cut and cache that there may be room for, what may be fastest first.

    With at least the seconds that each takes without updates, and those of computing alone.
    """
    found = []
    for cut in reversed(frozen_cuts(asked.graph, updated_layers(asked.plan))):
        for cache_in in caches:
            if cache_in == "nothing" or not asked.has_place(cache_in):
                continue
            if least.may_have_room(cut, cache_in):
                way = replace(least.recipe, cut=cut, cache_in=cache_in)
                found.append((least.seconds(cut, cache_in), least.computing_s(cut), way))
    return sorted(found, key=lambda one: one[0])


def _seconds(cost: AdaptationCost) -> float:
    found = cost.latency_s
    return float("inf") if found is None else found.value


def _worth(asked: Asked, cost: AdaptationCost) -> tuple[int, float]:
    """By which ways are compared: budgets of the whole that are broken, then seconds."""
    return len(asked.exceeded(cost)), _seconds(cost)
