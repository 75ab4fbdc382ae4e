"""Which images an iteration shows, where it does not show all of them."""

import numpy as np
import torch
from torch import Tensor

from costsim.ir.recipe import Recipe

_STREAM = 0x53484F57
"""Keeps these random numbers apart from those that drew the task and its copies."""


def showings(labels: Tensor, recipe: Recipe) -> list[Tensor]:
    """For each iteration the images it shows, as ascending positions in `labels` `[n]`.

    In every `image_interval` iterations each image is shown once, and every class as evenly as its
    images allow: one that has an image for each of them is there in each. Which images of a class
    come together is drawn anew every time.
    """
    count = len(labels)
    interval = min(recipe.image_interval, count)
    if interval == 1:
        return [torch.arange(count)] * recipe.iterations
    known = labels.cpu().numpy()
    rng = np.random.default_rng([_STREAM, recipe.seed])
    found: list[Tensor] = []
    while len(found) < recipe.iterations:
        drawn = rng.permutation(count)
        by_class = drawn[np.argsort(known[drawn], kind="stable")]
        found += [torch.from_numpy(np.sort(by_class[turn::interval])) for turn in range(interval)]
    return found[: recipe.iterations]
