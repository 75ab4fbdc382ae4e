"""How a task is adapted to, as options."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from costsim.cli.options import iterations_option
from costsim.ir.recipe import CACHES, CacheIn, Recipe

F = TypeVar("F", bound=Callable[..., Any])

AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    """What `recipe_options` read."""

    iterations: int
    image_interval: int
    means_interval: int
    cache: str

    @property
    def caches(self) -> tuple[CacheIn, ...]:
        """Where what frozen layers compute may be kept."""
        return tuple(place for place in CACHES if self.cache in (AUTO, place))

    def recipe(self, **others: Any) -> Recipe:
        """With what else there is to say of it; raises `InputError` for what no recipe allows."""
        return Recipe(
            iterations=self.iterations,
            image_interval=self.image_interval,
            means_interval=self.means_interval,
            **others,
        )


def recipe_options(words: str) -> Callable[[F], F]:
    """The options of a recipe; `words` say what an iteration is."""

    def applied(function: F) -> F:
        for option in reversed(
            (
                iterations_option(words),
                click.option(
                    "--image-interval",
                    type=int,
                    default=1,
                    show_default=True,
                    metavar="N",
                    help="Show each image in every N-th iteration only: 2 shows half of them.",
                ),
                click.option(
                    "--means-interval",
                    type=int,
                    default=1,
                    show_default=True,
                    metavar="N",
                    help="Take class means anew in every N-th iteration only.",
                ),
                click.option(
                    "--cache",
                    type=click.Choice((AUTO, *CACHES)),
                    default=AUTO,
                    show_default=True,
                    help="Where the device keeps what frozen layers compute of each image, so that "
                    "they run once; it changes no result. auto: where that is fastest.",
                ),
            )
        ):
            function = option(function)
        return function

    return applied
