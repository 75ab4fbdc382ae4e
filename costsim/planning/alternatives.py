"""What a recipe would cost if one of its choices were another."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from costsim.ir.recipe import CacheIn, Recipe
from costsim.planning.recipe_freedom import Freedom
from costsim.planning.recipes import PricedRecipe, choose_cache
from costsim.planning.task_on_device import Asked
from costsim.pricing.adaptation import AdaptationCost


@dataclass(frozen=True)
class Alternative:
    """A field of a recipe at another value, and the price of an adaptation by that recipe."""

    part: str
    value: int | str
    cost: AdaptationCost


def alternatives(
    asked_at: Callable[[int], Asked],
    chosen: PricedRecipe,
    freedom: Freedom,
    caches: tuple[CacheIn, ...],
) -> tuple[Alternative, ...]:
    """The ends of each choice that was the planner's, all else as `chosen`.

    Of what may be spared, nothing and all of it; of places for a cache, the others. `asked_at`
    gives what prices recipes that show each image in every so many iterations.
    """
    if chosen.cost.latency_s is None:
        return ()
    plain = replace(chosen.recipe, cut=None, cache_in="nothing")
    found = []
    for part, value in _spared(plain, freedom):
        changed: dict[str, Any] = {part: value}
        recipe = replace(plain, **changed)
        cost = choose_cache(asked_at(recipe.image_interval), recipe, caches).cost
        found.append(Alternative(part, value, cost))
    return (*found, *_kept_elsewhere(asked_at(plain.image_interval), chosen, plain, caches))


def _spared(recipe: Recipe, freedom: Freedom) -> Iterator[tuple[str, int]]:
    for part, values in (
        ("image_interval", freedom.image_intervals),
        ("means_interval", freedom.means_intervals),
        ("copies", freedom.copies),
    ):
        for value in dict.fromkeys((values[0], values[-1])):
            if value != getattr(recipe, part):
                yield part, value


def _kept_elsewhere(
    asked: Asked, chosen: PricedRecipe, plain: Recipe, caches: tuple[CacheIn, ...]
) -> Iterator[Alternative]:
    for place in caches:
        if place == chosen.recipe.cache_in or not asked.has_place(place):
            continue
        if place == "nothing":
            yield Alternative("cache_in", place, chosen.uncached)
            continue
        there = choose_cache(asked, plain, (place,))
        if there.recipe.cache_in == place:
            yield Alternative("cache_in", place, there.cost)
