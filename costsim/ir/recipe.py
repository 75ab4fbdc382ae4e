"""How a task is adapted to, from its images to a network that answers."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, get_args

from costsim.base.errors import InputError
from costsim.ir.step import OPTIMIZER_STATES, Optimizer, TrainingStep

Loss: TypeAlias = Literal["prototype", "cross_entropy"]
"""Of a classifier by class means, or of logits that the network returns."""

CacheIn: TypeAlias = Literal["nothing", "ram", "storage"]

CACHES: tuple[CacheIn, ...] = ("nothing", "ram", "storage")

MOST_ITERATIONS = 1_000_000
MOST_COPIES = 10_000
"""What is drawn for all of them is drawn at once."""

MOST_INTERVAL = 1_000
"""Of iterations between two of the same kind."""


@dataclass(frozen=True)
class Recipe:
    """The protocol of an adaptation, the same for every method.

    An iteration is one optimizer step on the mean loss of its images, each shown as one of its
    `copies` lightly changed copies, which are drawn once; 0 draws new ones in every iteration.
    Each image is shown in every `image_interval`-th iteration: 1 shows all of them in each. Class
    means of the images as they are, constant for the gradient and taken anew every
    `means_interval` iterations, are the classifier (cosine similarity times `temperature`): with
    intervals of 1 this is the protocol of TinyTrain (ICML 2024) after Hu et al. (CVPR 2022). With
    the `loss` cross_entropy the network's own logits are trained, and there are no class means.

    `cut` names a call before which nothing is trained: what the network computes up to there of
    every image and copy is computed once and kept in `cache_in`, so that iterations begin at the
    cut; without one they begin at the image. It changes no result.

    A step goes over its images `micro_batch` at a time. `seed` decides the copies and whatever
    else is drawn, but not the task.
    """

    iterations: int = 40
    optimizer: Optimizer = "adam"
    momentum: float = 0.9
    temperature: float = 10.0
    augment: bool = True
    copies: int = 8
    image_interval: int = 1
    means_interval: int = 1
    micro_batch: int = 1
    loss: Loss = "prototype"
    cut: str | None = None
    cache_in: CacheIn = "nothing"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least, most in (
            ("iterations", 1, MOST_ITERATIONS), ("copies", 0, MOST_COPIES),
            ("image_interval", 1, MOST_INTERVAL), ("means_interval", 1, MOST_INTERVAL),
            ("micro_batch", 1, None), ("seed", 0, None),
        ):  # fmt: skip
            value, told = getattr(self, name), name.replace("_", " ")
            if value < least:
                raise InputError(f"{told} is {value}; at least {least} is needed")
            if most is not None and value > most:
                raise InputError(f"{told} is {value}; at most {most} are allowed")
        if not 0 <= self.momentum < 1:
            raise InputError(f"momentum is {self.momentum:g}; allowed is 0 to below 1")
        if not 0 < self.temperature < math.inf:
            raise InputError(f"temperature is {self.temperature:g}; allowed is above 0")
        if self.optimizer not in OPTIMIZER_STATES:
            raise InputError(
                f"optimizer {self.optimizer!r}; allowed are {', '.join(OPTIMIZER_STATES)}"
            )
        if self.loss not in (known := get_args(Loss)):
            raise InputError(f"loss {self.loss!r}; allowed are {', '.join(known)}")
        if self.loss == "cross_entropy" and self.means_interval != 1:
            raise InputError(
                f"means interval is {self.means_interval}, but the loss cross_entropy takes no "
                "class means"
            )
        if self.cache_in not in CACHES:
            raise InputError(f"cache in {self.cache_in!r}; allowed are {', '.join(CACHES)}")
        if (self.cut is None) != (self.cache_in == "nothing"):
            raise InputError(
                "a cut and a place for what is kept of the part before it come together: "
                f"cut is {self.cut!r}, cache in {self.cache_in!r}"
            )
        if self.cut is not None and self.augment and not self.copies:
            raise InputError(
                f"cut at {self.cut!r} with new copies in every iteration: nothing is shown twice, "
                "so that there is nothing to keep; give a number of copies"
            )

    @property
    def drawn_copies(self) -> int:
        """How many copies of each image there are."""
        if not self.augment:
            return 1
        return self.copies or self.iterations

    def images_a_step(self, samples: int) -> int:
        """The most images that one iteration shows of `samples`."""
        return -(-samples // self.image_interval)

    def means_taken(self) -> int:
        """How often class means are taken while training."""
        return -(-self.iterations // self.means_interval)

    def step(self, samples: int) -> TrainingStep:
        """The step that a device does in one iteration on a task of so many samples."""
        shown = self.images_a_step(samples)
        micro = self.micro_batch if shown % self.micro_batch == 0 else 1
        return TrainingStep(
            batch=shown,
            micro_batch=None if micro == shown else micro,
            optimizer=self.optimizer,
        )

    def to_json(self) -> dict[str, Any]:
        """The `recipe` of a plan file."""
        return asdict(self)
