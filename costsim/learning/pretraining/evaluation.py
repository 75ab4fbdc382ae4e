"""Accuracy on classes that were never trained on, with an interval over episodes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from costsim.base.intervals import Mean
from costsim.data import FixedEpisode
from costsim.learning.pretraining.pool import Domain

EPISODES = 600
WAYS, SHOTS, QUERIES = 10, 5, 10
IMAGES = 60
"""Of each class, at most, that are looked at."""


@dataclass(frozen=True)
class Accuracy:
    """Mean share of right queries over `episodes`, and half its 95 % interval (None: too few).

    See `costsim.base.intervals`. The interval is over episodes drawn from these classes and
    images, not over other classes.
    """

    domain: str
    ways: int
    shots: int
    mean: float
    interval: float | None
    episodes: int

    def __str__(self) -> str:
        return Mean(self.mean, self.interval, self.episodes).told


@torch.no_grad()
def pool_features(
    module: nn.Module, pixels: Tensor, rows: NDArray[np.int64], device: torch.device
) -> Tensor:
    """Features `[len(rows), D]`, unit length, of images as they are, in evaluation mode."""
    was = module.training
    module.eval()
    parts = []
    for start in range(0, len(rows), 64):
        part = pixels[rows[start : start + 64]].to(device).float().mul_(2 / 255).sub_(1)
        images = part.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        parts.append(module(images).flatten(1).float().cpu())
    module.train(was)
    return torch.nn.functional.normalize(torch.cat(parts), dim=1)


def evaluate(
    module: nn.Module,
    pixels: Tensor,
    domains: Sequence[Domain],
    device: torch.device,
    *,
    seed: int = 0,
    episodes: int = EPISODES,
) -> tuple[Accuracy, ...]:
    """The accuracy on each domain: at most 10 ways, 5 shots and 10 queries, as its classes allow.

    Episodes are drawn as tasks are, from the first `IMAGES` of each class. Domains of fewer than
    two classes, or of classes with a single image, are passed over.
    """
    found = []
    for domain in domains:
        classes = {name: images[:IMAGES] for name, images in domain.classes.items()}
        smallest = min(map(len, classes.values()))
        shots = min(SHOTS, smallest // 2)
        queries = min(QUERIES, smallest - shots)
        if shots < 1:
            continue
        able = FixedEpisode(1, shots, queries).able(classes, domain.tracks)
        ways = min(WAYS, len(able))
        if ways < 2:
            continue
        names = [name for images in classes.values() for name in images]
        rows = np.array([domain.rows[name] for name in names])
        features = pool_features(module, pixels, rows, device).numpy()
        at = {name: place for place, name in enumerate(names)}
        rule, rng = FixedEpisode(ways, shots, queries), np.random.default_rng([seed, ways, shots])
        shares = []
        for _ in range(episodes):
            drawn = rule.draw(classes, rng, domain.tracks, domain.name)
            support, query = (
                features[[[at[name] for name in images] for images in side]]
                for side in (drawn.support, drawn.query)
            )
            means = support.mean(1)
            means /= np.linalg.norm(means, axis=1, keepdims=True) + 1e-12
            right = (query @ means.T).argmax(2) == np.arange(ways)[:, None]
            shares.append(float(right.mean()))
        mean = Mean.of(shares)
        assert mean is not None
        found.append(Accuracy(domain.name, ways, shots, mean.value, mean.half, mean.count))
    return tuple(found)
