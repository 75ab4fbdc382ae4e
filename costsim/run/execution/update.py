"""Optimizers on the selected channels, as `torch.optim` defines them with default settings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """Of every optimizer; each reads its own."""

    learning_rate: float
    momentum: float = 0.9
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8


Add: TypeAlias = Callable[[Tensor, float], object]
"""Adds a multiple of a compact tensor to what is selected of a weight."""

Update: TypeAlias = Callable[[Hyperparameters, Add, Tensor, Tensor | None, int], None]
"""(settings, how to change the weight, gradient, states, number of the step from 1).

The gradient has the selection's compact form and may be written over, the states are
`[states, *compact form]`.
"""


def _sgd(h: Hyperparameters, add: Add, dw: Tensor, state: Tensor | None, step: int) -> None:
    add(dw, -h.learning_rate)


def _momentum(h: Hyperparameters, add: Add, dw: Tensor, state: Tensor | None, step: int) -> None:
    assert state is not None
    (velocity,) = state
    add(velocity.mul_(h.momentum).add_(dw), -h.learning_rate)


def _adam(h: Hyperparameters, add: Add, dw: Tensor, state: Tensor | None, step: int) -> None:
    assert state is not None
    mean, square = state
    mean.lerp_(dw, 1 - h.beta1)
    square.mul_(h.beta2).addcmul_(dw, dw, value=1 - h.beta2)
    scale: float = (1 - h.beta2**step) ** 0.5
    change = square.sqrt().div_(scale).add_(h.eps)
    torch.div(mean, change, out=change)
    add(change, -h.learning_rate / (1 - h.beta1**step))


UPDATES: Mapping[str, Update] = MappingProxyType(
    {"sgd": _sgd, "momentum": _momentum, "adam": _adam}
)
"""By the name of the optimizer in `costsim.ir.step.TrainingStep`."""
