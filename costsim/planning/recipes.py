"""Where a network is cut for a task, and where what its frozen part computes is kept."""

from dataclasses import dataclass, field, replace
from typing import Any

from costsim.base.errors import InputError
from costsim.base.units import format_bytes, format_seconds
from costsim.device import DeviceSpec
from costsim.ir.cuts import updated_layers
from costsim.ir.graph import LayerGraph
from costsim.ir.plan import UpdatePlan
from costsim.ir.program.adaptation import (
    Phase,
    Scored,
    Task,
    compile_adaptation,
    frozen_cuts,
)
from costsim.ir.recipe import CacheIn, Recipe
from costsim.ir.step import TrainingStep
from costsim.pricing.accounting import OF_LIVE_BYTES
from costsim.pricing.adaptation import AdaptationCost, price_adaptation
from costsim.problem.budget import Budget


@dataclass(frozen=True)
class Asked:
    """What is to be done for a task and where: all that a choice of recipe goes by.

    `plan` is of `graph`, traced at the samples of a pass of `step`; `scored` is what the device
    scores before it chooses.
    """

    graph: LayerGraph
    plan: UpdatePlan
    task: Task
    step: TrainingStep | None
    device: DeviceSpec
    target: str | None = None
    scored: Scored | None = None
    budget: Budget = field(default_factory=Budget)

    def cost(self, recipe: Recipe) -> AdaptationCost:
        """The price by a recipe."""
        program = compile_adaptation(
            self.graph,
            self.plan,
            recipe,
            self.task,
            scored=self.scored,
            images_in=self.device.placement.support_images,
            step=self.step,
        )
        return price_adaptation(program, self.device, self.target)


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

    What is kept changes no result, so that it is chosen by cost alone: all cuts before which
    nothing is trained, from the last to the first, until even without waiting for storage an
    earlier one cannot be faster, since it leaves more to compute. A cache must fit in its place,
    in RAM within the budget too. Where a phase does not fit on the device nothing is kept. Raises
    `InputError` where storage alone is asked for and the device has none.
    """
    if caches == ("storage",) and not _has_room(asked, "storage"):
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
    for cut in reversed(frozen_cuts(asked.graph, updated_layers(asked.plan))):
        fastest: float | None = None
        for cache_in in caches:
            if cache_in == "nothing":
                continue
            cut_there = replace(recipe, cut=cut, cache_in=cache_in)
            if not _has_room(asked, cache_in):
                continue
            cost = asked.cost(cut_there)
            least = sum(phase.compute_s.value for phase in cost.phases)
            fastest = least if fastest is None else min(fastest, least)
            if _fits(asked, cost, cache_in) and _seconds(cost) < _seconds(best.cost):
                best = PricedRecipe(cut_there, cost, uncached)
        if fastest is None or fastest >= _seconds(best.cost):
            break
    return best


def _seconds(cost: AdaptationCost) -> float:
    found = cost.latency_s
    return float("inf") if found is None else found.value


def _has_room(asked: Asked, cache_in: CacheIn) -> bool:
    """Whether the device has such a place at all, and says how fast it is."""
    if cache_in == "ram":
        return True
    region = asked.device.region("storage")
    return region is not None and None not in (region.read_bandwidth, region.write_bandwidth)


def _fits(asked: Asked, cost: AdaptationCost, cache_in: CacheIn) -> bool:
    if cache_in == "storage":
        return cost.stored_bytes.get("storage", 0) <= asked.device.storage_bytes
    limits = [asked.device.largest_block_bytes]
    if asked.budget.accounting in OF_LIVE_BYTES and asked.budget.memory_bytes is not None:
        limits.append(asked.budget.memory_bytes)
    held = max((p.peak_bytes for p in cost.phases if p.phase in _WITH_CACHE), default=0)
    return held <= min(limits)


_WITH_CACHE = frozenset({Phase.CACHING, Phase.MEANS, Phase.TRAINING})
