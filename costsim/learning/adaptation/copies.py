"""The support images as they are shown: lightly changed copies, drawn once."""

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from costsim.learning.adaptation.settings import Settings
from costsim.learning.training.augment import augment, draw_amounts

_STREAM = 0x41444150
"""Keeps these random numbers apart from those that drew the task from the same seed."""


class Copies:
    """Copies of `images` `[N, C, H, W]`, as many and as different as `settings` says."""

    def __init__(self, images: Tensor, settings: Settings) -> None:
        self.images, self.settings = images, settings

    @cached_property
    def amounts(self) -> Tensor:
        """How each copy of each image is changed, `[copies, N, 5]`; zeros change nothing."""
        copies, samples = self.settings.drawn_copies, len(self.images)
        rng = np.random.default_rng([_STREAM, self.settings.seed, 0])
        drawn = draw_amounts(rng, copies * samples).reshape(copies, samples, -1)
        return (drawn if self.settings.augment else torch.zeros_like(drawn)).to(
            self.images.device, self.images.dtype
        )

    @cached_property
    def picks(self) -> Tensor:
        """Which copy of each image an iteration shows, `[iterations, N]`."""
        settings, samples = self.settings, len(self.images)
        iterations, copies = settings.iterations, settings.drawn_copies
        if copies == iterations and not settings.copies:
            return torch.arange(iterations).unsqueeze(1).expand(-1, samples)
        rng = np.random.default_rng([_STREAM, settings.seed, 1])
        drawn = (rng.random((iterations, samples)) * copies).astype(np.int64)
        return torch.from_numpy(drawn)

    def of(self, numbers: Tensor, chosen: Tensor) -> Tensor:
        """The copies `numbers` `[k]` of the images `chosen` `[k]`, `[k, C, H, W]`."""
        images = self.images[chosen]
        if not self.settings.augment:
            return images
        return augment(images, self.amounts[numbers, chosen])
