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
    AdaptationProgram,
    Phase,
    Scored,
    Task,
    compile_adaptation,
    frozen_cuts,
    value_bytes,
    values_kept,
)
from costsim.ir.recipe import CacheIn, Recipe
from costsim.ir.step import TrainingStep
from costsim.pricing.accounting import OF_LIVE_BYTES
from costsim.pricing.adaptation import AdaptationCost, Parts, Readings, price_adaptation
from costsim.problem.budget import Budget
from costsim.problem.task_budget import TaskBudget


@dataclass(frozen=True)
class Asked:
    """What is to be done for a task and where: all that a choice of recipe goes by.

    `plan` is of `graph`, traced at the samples of a pass of `step`; `scored` is what the device
    scores before it chooses. `budget` is of a step, `task_budget` of the whole.
    """

    graph: LayerGraph
    plan: UpdatePlan
    task: Task
    step: TrainingStep | None
    device: DeviceSpec
    target: str | None = None
    scored: Scored | None = None
    budget: Budget = field(default_factory=Budget)
    task_budget: TaskBudget = field(default_factory=TaskBudget)
    readings: Readings = field(default_factory=Readings, repr=False, compare=False)

    def cost(self, recipe: Recipe) -> AdaptationCost:
        """The price by a recipe."""
        program = self._program(recipe)
        return price_adaptation(program, self.device, self.target, self.readings)

    def forward_cost(self, recipe: Recipe) -> AdaptationCost:
        """The price of all but what the plan's updates add to each step."""
        program = self._program(recipe, forward_only=True)
        return price_adaptation(program, self.device, self.target, self.readings)

    def forward_parts(self, recipe: Recipe) -> Parts:
        """At least what a forward pass takes before and behind each cut."""
        program = self._program(replace(recipe, cut=None, cache_in="nothing"), forward_only=True)
        whole = program[Phase.ANSWERING].program
        return self.readings.parts(whole, self.device.target(self.target))

    def _program(self, recipe: Recipe, *, forward_only: bool = False) -> AdaptationProgram:
        return compile_adaptation(
            self.graph,
            self.plan,
            recipe,
            self.task,
            scored=self.scored,
            images_in=self.device.placement.support_images,
            step=self.step,
            forward_only=forward_only,
        )

    def lasting_bytes(self, recipe: Recipe) -> int:
        """Bytes of RAM that lie beside the steps while training, in no program's own buffers."""
        return self._program(recipe, forward_only=True).lasting_bytes(Phase.TRAINING)

    def exceeded(self, cost: AdaptationCost) -> dict[str, tuple[float, float]]:
        """The budgets of the whole that are broken: what it takes, and what is allowed."""
        return self.task_budget.exceeded(cost.usage)

    @property
    def room_bytes(self) -> int:
        """Of RAM, for what is live at once: the device's, and the budget's where it counts that."""
        limits = [self.device.largest_block_bytes]
        if self.budget.accounting in OF_LIVE_BYTES and self.budget.memory_bytes is not None:
            limits.append(self.budget.memory_bytes)
        return min(limits)

    def has_place(self, cache_in: CacheIn) -> bool:
        """Whether the device has such a place at all, and says how fast it is."""
        if cache_in != "storage":
            return True
        region = self.device.region("storage")
        return region is not None and None not in (region.read_bandwidth, region.write_bandwidth)

    def may_have_room(self, cut: str, cache_in: CacheIn, recipe: Recipe) -> bool:
        """False where the values at `cut` alone are more than their place holds."""
        bits = TrainingStep().bits if self.step is None else self.step.bits
        held = values_kept(recipe, self.task) * value_bytes(self.graph, cut, bits)
        return held <= (self.room_bytes if cache_in == "ram" else self.device.storage_bytes)

    def has_room(self, cost: AdaptationCost, cache_in: CacheIn) -> bool:
        """Whether what is kept in a place fits there; in RAM beside all else while it is there."""
        if cache_in == "nothing":
            return True
        if cache_in == "storage":
            return cost.stored_bytes.get("storage", 0) <= self.device.storage_bytes
        held = max((p.peak_bytes for p in cost.phases if p.phase in _WITH_CACHE), default=0)
        return held <= self.room_bytes


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
    of the whole where there are any: all cuts before which nothing is trained, from the last to
    the first, until even without waiting for storage an earlier one cannot be faster, since it
    leaves more to compute. A cache must fit in its place, in RAM within the budget too. Where a
    phase does not fit on the device nothing is kept. Raises `InputError` where storage alone is
    asked for and the device has none.
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
    updates_s = _seconds(uncached) - _seconds(asked.forward_cost(plain))
    fastest = float("inf") if asked.exceeded(uncached) else _seconds(uncached)
    for way in _promising(asked, recipe, caches, updates_s, fastest):
        cost = asked.cost(way)
        better = _worth(asked, cost) < _worth(asked, best.cost)
        if better and asked.has_room(cost, way.cache_in):
            best = PricedRecipe(way, cost, uncached)
            if not asked.exceeded(cost) and not recomputes(asked.step):
                break  # of the rest none takes less
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
    asked: Asked, recipe: Recipe, caches: tuple[CacheIn, ...], updates_s: float, fastest: float
) -> list[Recipe]:
    """`recipe` with each cut and cache that may take less than `fastest`, the fastest first.

    Updates add `updates_s` to all steps of any. One whose values, or forward passes beside them,
    lack room has none with updates either: it is left out before anything is compiled that nobody
    will choose.
    """
    found: list[tuple[float, Recipe]] = []
    for cut in reversed(frozen_cuts(asked.graph, updated_layers(asked.plan))):
        computing: list[float] = []
        places = [one for one in caches if one != "nothing" and asked.has_place(one)]
        for cache_in in places:
            if not asked.may_have_room(cut, cache_in, recipe):
                continue
            way = replace(recipe, cut=cut, cache_in=cache_in)
            cost = asked.forward_cost(way)
            computing.append(sum(phase.compute_s.value for phase in cost.phases))
            if not asked.has_room(cost, cache_in):
                continue
            found.append((_seconds(cost), way))
            if "storage_bytes" not in asked.exceeded(cost):
                fastest = min(fastest, _seconds(cost) + updates_s)
        if not places:
            break
        if computing and min(computing) + updates_s * (not recomputes(asked.step)) > fastest:
            break
    return [way for _, way in sorted(found, key=lambda one: one[0])]


def _seconds(cost: AdaptationCost) -> float:
    found = cost.latency_s
    return float("inf") if found is None else found.value


def _worth(asked: Asked, cost: AdaptationCost) -> tuple[int, float]:
    """By which ways are compared: budgets of the whole that are broken, then seconds."""
    return len(asked.exceeded(cost)), _seconds(cost)


_WITH_CACHE = frozenset({Phase.CACHING, Phase.MEANS, Phase.TRAINING})
