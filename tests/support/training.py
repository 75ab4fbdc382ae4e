"""A small network, and plans for it, to train in tests."""

from collections.abc import Mapping
from pathlib import Path

import torch
from costsim.solvers import make_solver

from costsim.ir.step import TrainingStep
from costsim.planning import BudgetRequest, PlanRequest, make_plan
from costsim.solving.planfile import PlanFile

SOURCE = """
from torch import nn

resolution = 16


class Net(nn.Sequential):
    resolution = 16


def make():
    return Net(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU6(), nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.ReLU6(),
        nn.Conv2d(8, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )
"""
MODEL = "small_net_of_tests:make"


def write_network(folder: Path) -> None:
    """The module that `MODEL` names."""
    (folder / "small_net_of_tests.py").write_text(SOURCE)


def small_plan(step: TrainingStep | None = None, **given: object) -> PlanFile:
    """A plan for the network in the current folder on 3-way 4-shot digits."""
    from costsim.device import load_device

    request = PlanRequest(
        device=load_device("jetson-nano"),
        solver=make_solver("greedy"),
        model=MODEL,
        ways=3,
        shots=4,
        with_bias=True,
        step=step or TrainingStep(batch=2, optimizer="adam"),
        budget=BudgetRequest(macs_share=0.6),
    )
    return make_plan(PlanRequest(**{**request.__dict__, **given})).file


def bits(tensors: Mapping[str, torch.Tensor]) -> dict[str, bytes]:
    """Every tensor as its bytes."""
    return {name: t.detach().contiguous().numpy().tobytes() for name, t in tensors.items()}
