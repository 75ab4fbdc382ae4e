"""How a task is adapted to; what is adapted is the method's to say."""

import math
from dataclasses import dataclass
from typing import Literal

from costsim.base.errors import InputError
from costsim.ir.step import OPTIMIZER_STATES, TrainingStep
from costsim.planning import DEFAULT_ITERATIONS

DEFAULT_SOURCE_TASKS = 10
"""So many tasks of other images a method that needs them chooses by."""

MOST_ITERATIONS = 1_000_000
MOST_COPIES = 10_000
"""What is drawn for all of them is drawn at once."""


@dataclass(frozen=True)
class Settings:
    """The protocol, the same for every method.

    An iteration is one optimizer step on the mean loss of the whole support set, each image shown
    as one of its `copies` lightly changed copies, which are drawn once; 0 draws new ones in every
    iteration. Class means of the images as they are, taken anew in each iteration and constant
    for the gradient, are the classifier (cosine similarity times `temperature`): the protocol of
    TinyTrain (ICML 2024) after Hu et al. (CVPR 2022).

    On the device a step goes over the support set `micro_batch` images at a time, as is priced;
    here it goes over as many at once as is fast, which gives the same gradient.

    `cache_bytes`: what frozen parts have computed of the copies is kept up to here, so that it is
    computed once for all iterations; it changes no result. `seed` decides the copies and whatever
    else is drawn, but not the task.
    """

    iterations: int = DEFAULT_ITERATIONS
    optimizer: Literal["sgd", "momentum", "adam"] = "adam"
    momentum: float = 0.9
    temperature: float = 10.0
    augment: bool = True
    copies: int = 8
    micro_batch: int = 1
    cache_bytes: int = 2**30
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (
            ("iterations", 1), ("copies", 0), ("micro_batch", 1), ("cache_bytes", 0), ("seed", 0),
        ):  # fmt: skip
            value = getattr(self, name)
            if value < least:
                raise InputError(f"{name.replace('_', ' ')} is {value}; at least {least} is needed")
        for name, most in (("iterations", MOST_ITERATIONS), ("copies", MOST_COPIES)):
            if getattr(self, name) > most:
                raise InputError(f"{name} is {getattr(self, name)}; at most {most} are allowed")
        if not 0 <= self.momentum < 1:
            raise InputError(f"momentum is {self.momentum:g}; allowed is 0 to below 1")
        if not 0 < self.temperature < math.inf:
            raise InputError(f"temperature is {self.temperature:g}; allowed is above 0")
        if self.optimizer not in OPTIMIZER_STATES:
            raise InputError(
                f"optimizer {self.optimizer!r}; allowed are {', '.join(OPTIMIZER_STATES)}"
            )

    @property
    def drawn_copies(self) -> int:
        """How many copies of each image there are."""
        if not self.augment:
            return 1
        return self.copies or self.iterations

    def step(self, samples: int) -> TrainingStep:
        """The step that a device does: all samples, a few at a time."""
        micro = self.micro_batch if samples % self.micro_batch == 0 else 1
        return TrainingStep(
            batch=samples,
            micro_batch=None if micro == samples else micro,
            optimizer=self.optimizer,
        )
