"""What a person may choose about the emitted code, and how it is to be compiled."""

import math
from dataclasses import dataclass

from costsim.base.errors import InputError

COMPILER_FLAGS = (
    "-std=c99",
    "-O2",
    "-ffreestanding",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-strict-aliasing",
    "-fno-unwind-tables",
    "-fno-asynchronous-unwind-tables",
)
"""Flags the emitted code is meant for: only what is priced as a multiply-accumulate is fused."""


@dataclass(frozen=True)
class EmissionOptions:
    """Hyperparameters as `costsim.run.execution.executor.Executor` has them, and the model's name.

    The learning rate is where `costsim_learning_rate` starts; the others are constants.
    """

    name: str = "model"
    learning_rate: float = 0.01
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("learning rate", self.learning_rate, 0 <= self.learning_rate < math.inf),
            ("momentum", self.momentum, 0 <= self.momentum < 1),
            ("beta", self.betas[0], 0 < self.betas[0] < 1),
            ("beta", self.betas[1], 0 < self.betas[1] < 1),
            ("eps", self.eps, 0 < self.eps < math.inf),
        ):
            if not allowed:
                raise InputError(f"{name} is {value:g}, which no update can be computed with")
