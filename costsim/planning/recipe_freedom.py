"""What of a recipe the planner may spare, and how far.

A recipe that spares work may change what is learnt, so that it is never chosen because it is cheap:
only where a budget of the task leaves less to train without it, and only within bounds for which
there is evidence: half of the images in each iteration, class means of every fifth iteration and
four copies of each image together changed TinyTrain's accuracy by -0.41 ± 0.21 points (three
networks, 128 pixels, 220 paired tasks of five domains; docs/accuracy.md). In a pilot of twelve
tasks a sixth of the images lost 4 points and more. Fewer than four copies were not tried.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from costsim.ir.recipe import Recipe

LARGEST_IMAGE_INTERVAL = 2
LARGEST_MEANS_INTERVAL = 5
FEWEST_COPIES = 4


@dataclass(frozen=True)
class Freedom:
    """The values that each part of a recipe may take, that which spares least first.

    Of recipes that train as much, one that shows more images is preferred, then one with more
    copies, then one that takes class means more often.
    """

    image_intervals: tuple[int, ...]
    copies: tuple[int, ...]
    means_intervals: tuple[int, ...]

    @classmethod
    def within_evidence(cls, recipe: Recipe, *, pinned: frozenset[str] = frozenset()) -> "Freedom":
        """All that the evidence allows beside `recipe`, but for the fields `pinned` by a person."""

        def free(name: str, most: int, step: int = 1) -> tuple[int, ...]:
            start = getattr(recipe, name)
            return (
                (start,) if name in pinned else tuple(range(start, most + step, step)) or (start,)
            )

        no_copies = not recipe.augment or not recipe.copies
        means = "means_interval" if recipe.loss == "prototype" else ""
        return cls(
            free("image_interval", LARGEST_IMAGE_INTERVAL),
            (recipe.copies,) if no_copies else free("copies", FEWEST_COPIES, -1),
            free(means, LARGEST_MEANS_INTERVAL) if means else (recipe.means_interval,),
        )

    @classmethod
    def none(cls, recipe: Recipe) -> "Freedom":
        """Nothing but the recipe."""
        return cls((recipe.image_interval,), (recipe.copies,), (recipe.means_interval,))

    def most_sparing(self, recipe: Recipe) -> Recipe:
        """All of it taken."""
        return replace(
            recipe,
            image_interval=self.image_intervals[-1],
            copies=self.copies[-1],
            means_interval=self.means_intervals[-1],
        )

    def by_preference(self, recipe: Recipe) -> Iterator[tuple[tuple[Recipe, ...], ...]]:
        """Recipes by how often they show an image, in rows of as many copies.

        In a row class means alone differ; each spares more than the last.
        """
        for image_interval in self.image_intervals:
            yield tuple(
                tuple(
                    replace(
                        recipe,
                        image_interval=image_interval,
                        copies=copies,
                        means_interval=means_interval,
                    )
                    for means_interval in self.means_intervals
                )
                for copies in self.copies
            )
