"""The support images as they are shown: lightly changed copies, drawn once."""

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from costsim.ir.recipe import Recipe
from costsim.learning.training.augment import augment, draw_amounts

_STREAM = 0x41444150
"""Keeps these random numbers apart from those that drew the task from the same seed."""


class Copies:
    """Copies of `images` `[N, C, H, W]`, as many and as different as `recipe` says."""

    def __init__(self, images: Tensor, recipe: Recipe) -> None:
        self.images, self.recipe = images, recipe

    @cached_property
    def amounts(self) -> Tensor:
        """How each copy of each image is changed, `[copies, N, 5]`; zeros change nothing."""
        copies, samples = self.recipe.drawn_copies, len(self.images)
        rng = np.random.default_rng([_STREAM, self.recipe.seed, 0])
        drawn = draw_amounts(rng, copies * samples).reshape(copies, samples, -1)
        return (drawn if self.recipe.augment else torch.zeros_like(drawn)).to(
            self.images.device, self.images.dtype
        )

    @cached_property
    def picks(self) -> Tensor:
        """Which copy of each image an iteration shows, `[iterations, N]`."""
        recipe, samples = self.recipe, len(self.images)
        iterations, copies = recipe.iterations, recipe.drawn_copies
        if copies == iterations and not recipe.copies:
            return torch.arange(iterations).unsqueeze(1).expand(-1, samples)
        rng = np.random.default_rng([_STREAM, recipe.seed, 1])
        drawn = (rng.random((iterations, samples)) * copies).astype(np.int64)
        return torch.from_numpy(drawn)

    def of(self, numbers: Tensor, chosen: Tensor) -> Tensor:
        """The copies `numbers` `[k]` of the images `chosen` `[k]`, `[k, C, H, W]`."""
        images = self.images[chosen]
        if not self.recipe.augment:
            return images
        return augment(images, self.amounts[numbers, chosen])
