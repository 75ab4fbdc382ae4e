"""How a task is adapted to, and within which budgets of the whole, as options."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from costsim.base.units import parse_bytes, parse_joules, parse_macs, parse_seconds
from costsim.cli.options import iterations_option, together
from costsim.cli.signature import was_typed
from costsim.cli.values import Quantity
from costsim.ir.recipe import CACHES, CacheIn, Recipe
from costsim.problem.task_budget import TaskBudget

F = TypeVar("F", bound=Callable[..., Any])

AUTO = "auto"

SPARED = ("image_interval", "copies", "means_interval")
"""What a budget of the task may spare, unless it was typed."""


@dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    """What `recipe_options` read."""

    iterations: int
    image_interval: int
    means_interval: int
    copies: int
    cache: str
    task_time: float | None
    task_energy: float | None
    task_macs: int | None
    storage: int | None

    @property
    def caches(self) -> tuple[CacheIn, ...]:
        """Where what frozen layers compute may be kept."""
        return tuple(place for place in CACHES if self.cache in (AUTO, place))

    @property
    def pinned(self) -> frozenset[str]:
        """The fields of the recipe that were typed: not to be spared."""
        return frozenset(name for name in SPARED if was_typed(name))

    def recipe(self, **others: Any) -> Recipe:
        """With what else there is to say of it; raises `InputError` for what no recipe allows."""
        return Recipe(
            iterations=self.iterations,
            image_interval=self.image_interval,
            means_interval=self.means_interval,
            copies=self.copies,
            **others,
        )

    def task_budget(self) -> TaskBudget:
        """The budgets of the whole."""
        return TaskBudget(self.task_time, self.task_energy, self.task_macs, self.storage)


def recipe_options(words: str) -> Callable[[F], F]:
    """The options of a recipe and of its budgets; `words` say what an iteration is."""
    return together(
        iterations_option(words),
        click.option(
            "--image-interval",
            type=int,
            default=1,
            metavar="N",
            help="Show each image in every N-th iteration only: 2 shows half of them.  [default: "
            "1; 2 where a budget of the task leaves more to train so]",
        ),
        click.option(
            "--means-interval",
            type=int,
            default=1,
            metavar="N",
            help="Take class means anew in every N-th iteration only.  [default: 1; up to 5 where "
            "a budget of the task leaves more to train so]",
        ),
        click.option(
            "--copies",
            type=int,
            default=8,
            metavar="N",
            help="Changed copies of each image, drawn once; 0: new ones in every iteration.  "
            "[default: 8; down to 4 where a budget of the task leaves more to train so]",
        ),
        click.option(
            "--cache",
            type=click.Choice((AUTO, *CACHES)),
            default=AUTO,
            show_default=True,
            help="Where the device keeps what frozen layers compute of each image, so that "
            "they run once; it changes no result. auto: where that is fastest.",
        ),
        click.option(
            "--task-time",
            type=Quantity("time", parse_seconds),
            metavar="TIME",
            help="Seconds of the whole adaptation, from scoring to an answer: 2min, 90s.  "
            "[default: no limit]",
        ),
        click.option(
            "--task-energy",
            type=Quantity("energy", parse_joules),
            metavar="ENERGY",
            help="Joules of the whole adaptation: 100J.  [default: no limit]",
        ),
        click.option(
            "--task-macs",
            type=Quantity("macs", parse_macs),
            metavar="COUNT",
            help="MACs of the whole adaptation, forward and backward: 50G.  [default: no limit]",
        ),
        click.option(
            "--storage",
            type=Quantity("size", parse_bytes),
            metavar="SIZE",
            help="Bytes on the device's storage at once, images and kept values: 16MB.  "
            "[default: what the device has]",
        ),
    )
