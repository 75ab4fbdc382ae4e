"""How a task is adapted to, from its images to a network that answers."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, get_args

from costsim.base.errors import InputError, note
from costsim.ir.step import OPTIMIZER_STATES, BitWidths, Optimizer, TrainingStep

Loss: TypeAlias = Literal["prototype", "cross_entropy"]
"""Of a classifier by class means, or of logits that the network returns."""

CacheIn: TypeAlias = Literal["nothing", "ram", "storage"]

CACHES: tuple[CacheIn, ...] = ("nothing", "ram", "storage")

LARGEST_SEED = 2**63 - 1
"""Of torch's generators."""

FLOATS = BitWidths()

MOST_ITERATIONS = 1_000_000
MOST_COPIES = 10_000
"""What is drawn for all of them is drawn at once."""

MOST_INTERVAL = 1_000
"""Of iterations between two of the same kind."""


LARGEST_LEARNING_RATE = 1e37
"""Above it a step cannot even be computed in float32."""

USUAL_LEARNING_RATES: Mapping[Optimizer, float] = {"sgd": 0.01, "momentum": 0.001, "adam": 0.003}
"""The best of a few tried on 5-way 5-shot traffic signs with mcunet-5fps, one sample a step."""

ADAM_A_WHOLE_ITERATION = 0.001
"""The rate of TinyTrain (ICML 2024), whose step is over all images."""


@dataclass(frozen=True)
class Recipe:
    """The protocol of an adaptation, the same for every method.

    An iteration is, by default, one optimizer step on the mean loss of its images, each shown as
    one of its `copies` lightly changed copies, which are drawn once; 0 draws new ones in every
    iteration. Each image is shown in every `image_interval`-th iteration: 1 shows all of them in
    each. Class means of the images as they are, constant for the gradient and taken anew every
    `means_interval` iterations, are the classifier (cosine similarity times `temperature`): with
    intervals of 1 this is the protocol of TinyTrain (ICML 2024) after Hu et al. (CVPR 2022). With
    the `loss` cross_entropy the network's own logits are trained, and there are no class means.

    `cut` names a call before which nothing is trained: what the network computes up to there of
    every image and copy is computed once and kept in `cache_in`, so that iterations begin at the
    cut; without one they begin at the image. It changes no result.

    With a `batch` an iteration is as many optimizer steps as its images take, so many in each, in
    an order that is drawn; a last batch that is not full takes the first of that order again. A
    step goes over its images `micro_batch` at a time. `seed` decides the copies and whatever else
    is drawn, but not the task.
    """

    iterations: int = 40
    optimizer: Optimizer = "adam"
    learning_rate: float | None = None
    batch: int | None = None
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
            ("micro_batch", 1, None), ("seed", 0, LARGEST_SEED), ("batch", 1, None),
        ):  # fmt: skip
            value, told = getattr(self, name), name.replace("_", " ")
            if value is None:
                continue
            if value < least:
                raise InputError(f"{told} is {value}; at least {least} is needed")
            if most is not None and value > most:
                raise InputError(f"{told} is {value}; at most {most} are allowed")
        if not 0 <= self.momentum < 1:
            raise InputError(f"momentum is {self.momentum:g}; allowed is 0 to below 1")
        rate = self.learning_rate
        if rate is not None and not 0 <= rate <= LARGEST_LEARNING_RATE:
            raise InputError(f"learning rate is {rate:g}; allowed is 0 to 1e37")
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

    def steps(self, samples: int, batch: int) -> int:
        """How many optimizer steps over `batch` images all iterations are, of so many samples.

        Where the interval does not divide the samples some iterations show one image less.
        """
        interval = min(self.image_interval, samples)
        sizes = [-(-(samples - turn) // interval) for turn in range(interval)]
        steps = [-(-size // batch) for size in sizes]
        rounds, rest = divmod(self.iterations, interval)
        return rounds * sum(steps) + sum(steps[:rest])

    def means_taken(self) -> int:
        """How often class means are taken while training."""
        return -(-self.iterations // self.means_interval)

    @property
    def rate(self) -> float:
        """The learning rate: that given, or what is usual for the optimizer and the batch."""
        if self.learning_rate is not None:
            return self.learning_rate
        if self.optimizer == "adam" and self.batch is None:
            return ADAM_A_WHOLE_ITERATION
        return USUAL_LEARNING_RATES[self.optimizer]

    def step(self, samples: int, bits: BitWidths = FLOATS) -> TrainingStep:
        """The optimizer step that a device does on a task of so many samples.

        A micro-batch that does not divide its images is none: a `Note` says so.
        """
        batch = self.batch or self.images_a_step(samples)
        micro = self.micro_batch if batch % self.micro_batch == 0 else 1
        if micro != self.micro_batch:
            note(
                f"a micro-batch of {self.micro_batch} does not divide the {batch} images of a "
                "step: they are taken one at a time"
            )
        return TrainingStep(
            batch=batch,
            micro_batch=None if micro == batch else micro,
            optimizer=self.optimizer,
            bits=bits,
        )

    def to_json(self) -> dict[str, Any]:
        """The `recipe` of a plan file."""
        return asdict(self)
