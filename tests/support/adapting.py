"""A small network, a device and tasks to adapt to in tests."""

from functools import cache
from typing import Any

import torch
from torch import nn

from costsim.data import FixedEpisode, Task, digits, sample_episode
from costsim.device import load_device
from costsim.ir.recipe import Recipe
from costsim.learning.adaptation.place import Place
from costsim.learning.adaptation.situation import Situation
from costsim.learning.training.backbone import Backbone, load_backbone
from costsim.learning.training.frozen_values import CACHE_BYTES
from costsim.planning import BudgetRequest

SIDE = 16


def small_module(dtype: torch.dtype = torch.float64) -> nn.Module:
    """Convolutions with a skip, so that not every call is a cut."""

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.expand = nn.Conv2d(8, 16, 1)
            self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
            self.project = nn.Conv2d(16, 8, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = nn.functional.relu6(self.expand(x))
            y = nn.functional.relu6(self.depthwise(y))
            return x + self.project(y)

    torch.manual_seed(0)
    return (
        nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU6(), Residual(), Residual(),
            nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        )
        .to(dtype)
        .eval()
    )  # fmt: skip


@cache
def small_backbone(dtype: torch.dtype = torch.float64) -> Backbone:
    """Shared, because tracing takes its time: whoever trains it puts the base back."""
    return Backbone(small_module(dtype), (3, SIDE, SIDE), name="small")


def small_task(ways: int = 3, shots: int = 4, queries: int = 5, seed: int = 0) -> Task:
    """Drawn from the handwritten digits, at the size of the small network."""
    rule = FixedEpisode(ways, shots, queries)
    return sample_episode(digits(), rule, seed=seed, resolution=SIDE)


def place(**budget: Any) -> Place:
    """A Jetson Nano with these budgets."""
    return Place(load_device("jetson-nano"), None, BudgetRequest(**budget))


def small_situation(
    task: Task | None = None,
    dtype: torch.dtype = torch.float64,
    cache_bytes: int = CACHE_BYTES,
    **recipe: Any,
) -> Situation:
    """Any task on the small network; few iterations unless asked for."""
    given = {"iterations": 5, "copies": 3, **recipe}
    return Situation(
        small_backbone(dtype),
        task or small_task(),
        place(macs_share=0.5),
        Recipe(**given),
        cache_bytes=cache_bytes,
    )


def network_situation(side: int = 32, seed: int = 0, **recipe: Any) -> Situation:
    """A task on the untrained mcunet-5fps, at a small size."""
    backbone = load_backbone("mcunet-5fps", resolution=side)
    task = sample_episode(digits(), FixedEpisode(4, 2, 4), seed=seed, resolution=side)
    return Situation(backbone, task, place(), Recipe(**{"iterations": 2, "copies": 2, **recipe}))
