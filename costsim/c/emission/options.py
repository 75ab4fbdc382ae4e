"""What a person may choose about the emitted code, and how it is to be compiled."""

import math
from dataclasses import dataclass
from typing import Any, Self

from costsim.base.errors import InputError
from costsim.ir.recipe import Recipe

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
class ClassMeans:
    """Learning by class means: so many classes at most, and what cosines to them are times."""

    classes: int
    temperature: float = 10.0

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise InputError(f"class means of {self.classes}: at least 2 classes are needed")
        if not 0 < self.temperature < math.inf:
            raise InputError(f"temperature is {self.temperature:g}; allowed is above 0")


@dataclass(frozen=True)
class EmissionOptions:
    """Hyperparameters as `costsim.run.execution.executor.Executor` has them, and the model's name.

    The learning rate is where `costsim_learning_rate` starts; the others are constants. With
    `class_means` the loss is that of the classifier by class means, without it cross entropy of
    the model's outputs as logits. `iterations` and the two intervals are those of `Recipe`.
    """

    name: str = "model"
    learning_rate: float = 0.01
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    class_means: ClassMeans | None = None
    iterations: int = 40
    image_interval: int = 1
    means_interval: int = 1

    @classmethod
    def of_recipe(cls, recipe: Recipe, classes: int, **given: Any) -> Self:
        """Those of a task of so many classes that is adapted to by `recipe`, what is `given` apart.

        Class means are of two classes at least: one alone can be told from nothing.
        """
        by_means = recipe.loss == "prototype"
        planned: dict[str, Any] = {
            "learning_rate": recipe.rate,
            "momentum": recipe.momentum,
            "class_means": ClassMeans(max(2, classes), recipe.temperature) if by_means else None,
            "iterations": recipe.iterations,
            "image_interval": recipe.image_interval,
            "means_interval": recipe.means_interval,
        }
        return cls(**{**planned, **given})

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
