"""Optimisers on the selected channels, as `torch.optim` defines them with default settings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import torch
from torch import Tensor

from costsim.execution.selection import Selection


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """Of every optimiser; each reads its own."""

    learning_rate: float
    momentum: float = 0.9
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8


Update: TypeAlias = Callable[[Hyperparameters, Selection, Tensor, Tensor, Tensor | None, int], None]
"""(settings, selection, weight to change, gradient, states, number of the step from 1).

The gradient has the selection's compact form and may be written over, the states are
`[states, *compact form]`.
"""


def _sgd(
    h: Hyperparameters, s: Selection, weight: Tensor, dw: Tensor, state: Tensor | None, step: int
) -> None:
    s.add(weight, dw, -h.learning_rate)


def _momentum(
    h: Hyperparameters, s: Selection, weight: Tensor, dw: Tensor, state: Tensor | None, step: int
) -> None:
    assert state is not None
    (velocity,) = state
    s.add(weight, velocity.mul_(h.momentum).add_(dw), -h.learning_rate)


def _adam(
    h: Hyperparameters, s: Selection, weight: Tensor, dw: Tensor, state: Tensor | None, step: int
) -> None:
    assert state is not None
    mean, square = state
    mean.lerp_(dw, 1 - h.beta1)
    square.mul_(h.beta2).addcmul_(dw, dw, value=1 - h.beta2)
    scale: float = (1 - h.beta2**step) ** 0.5
    change = square.sqrt().div_(scale).add_(h.eps)
    torch.div(mean, change, out=change)
    s.add(weight, change, -h.learning_rate / (1 - h.beta1**step))


UPDATES: Mapping[str, Update] = MappingProxyType(
    {"sgd": _sgd, "momentum": _momentum, "adam": _adam}
)
"""By the name of the optimiser in `costsim.step.TrainingStep`."""
