"""What a run of meta-training depends on, as one value."""

import math
import re
from dataclasses import dataclass, fields

from costsim.base.errors import InputError

AUGMENTATIONS = ("none", "characters", "photographs")
EPISODES = ("fixed", "meta-dataset")
OPTIMIZERS = ("adamw", "sgd")
PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class Stage:
    """Images of `resolution` pixels a side for this `share` of the steps."""

    resolution: int
    share: float


@dataclass(frozen=True)
class PretrainSettings:
    """How to meta-train.

    A step takes `episodes` episodes of `ways` classes (from, to). A `fixed` one has `shots` (from,
    to) support and `queries` query images of each; of a `meta-dataset` one, whose `shots` are drawn
    as `costsim.data.MetaDatasetEpisode` says, these are the most queries, and `most_support` the
    most support images in all. `auxiliary` weighs a plain classification of the same images among
    all training classes. The learning rate rises for `warmup` of the steps and falls as a cosine
    to zero. `held_out` is the share of each source's classes that is never trained on.
    """

    steps: int = 2000
    episodes: int = 1
    episode: str = "fixed"
    ways: tuple[int, int] = (20, 20)
    shots: tuple[int, int] = (5, 5)
    queries: int = 5
    most_support: int = 500
    stages: tuple[Stage, ...] = (Stage(64, 0.6), Stage(96, 0.25), Stage(128, 0.15))
    optimizer: str = "adamw"
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    momentum: float = 0.9
    warmup: float = 0.05
    auxiliary: float = 1.0
    temperature: float = 10.0
    augmentation: str = "none"
    precision: str = "auto"
    norm_momentum: float = 0.1
    held_out: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed, told in (
            ("steps", self.steps >= 1, "1 and above"),
            ("episodes", self.episodes >= 1, "1 and above"),
            ("ways", 2 <= self.ways[0] <= self.ways[1], "2 and above, as N or FROM-TO"),
            ("shots", 1 <= self.shots[0] <= self.shots[1], "1 and above, as N or FROM-TO"),
            ("queries", self.queries >= 1, "1 and above"),
            ("episode", self.episode in EPISODES, " or ".join(EPISODES)),
            (
                "most_support",
                self.episode == "fixed" or self.most_support >= self.ways[1],
                "the most ways, and above",
            ),
            ("optimizer", self.optimizer in OPTIMIZERS, " or ".join(OPTIMIZERS)),
            ("learning_rate", 0 < self.learning_rate <= 1e3, "above 0, to 1000"),
            ("weight_decay", 0 <= self.weight_decay <= 1e3, "0 to 1000"),
            ("momentum", 0 <= self.momentum < 1, "0 to below 1"),
            ("warmup", 0 <= self.warmup < 1, "0 to below 1"),
            ("auxiliary", 0 <= self.auxiliary < math.inf, "0 and above"),
            ("temperature", 0 < self.temperature < math.inf, "above 0"),
            ("augmentation", self.augmentation in AUGMENTATIONS, ", ".join(AUGMENTATIONS)),
            ("precision", self.precision in PRECISIONS, ", ".join(PRECISIONS)),
            ("norm_momentum", 0 < self.norm_momentum <= 1, "above 0, to 1"),
            ("held_out", 0 <= self.held_out < 1, "0 to below 1"),
            ("seed", self.seed >= 0, "0 and above"),
        ):
            if not allowed:
                label = name.replace("_", " ")
                raise InputError(f"{label} is {getattr(self, name)}; allowed is {told}")
        if not self.stages or min(stage.resolution for stage in self.stages) < 1:
            raise InputError("the resolutions are whole numbers of pixels, at least one of them")

    def learning_rate_at(self, step: int) -> float:
        """Of step 0, 1, ...: linear warm-up, then half a cosine down to zero."""
        rising = max(1, round(self.warmup * self.steps))
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        done = (step - rising) / max(1, self.steps - rising)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    def resolution_at(self, step: int) -> int:
        """Side of the images of step 0, 1, ..."""
        total, end = sum(stage.share for stage in self.stages), 0.0
        for stage in self.stages:
            end += stage.share / total * self.steps
            if step < round(end):
                return stage.resolution
        return self.stages[-1].resolution

    def key(self) -> dict[str, str | int | float | bool]:
        """What the outcome depends on, flat: two runs with equal keys do the same."""
        found: dict[str, str | int | float | bool] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            found[field.name] = value if isinstance(value, str | int | float) else repr(value)
        return found


def parse_stages(text: str) -> tuple[Stage, ...]:
    """`128`, or `64:60%,96:25%,128:15%`; without shares the steps are divided evenly."""
    stages = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,5})\s*(?::\s*(\d+(?:\.\d+)?)\s*%)?\s*", part)
        if found is None or int(found[1]) < 1 or (found[2] and not 0 < float(found[2]) <= 100):
            raise InputError(
                f"--resolution {text!r}: write a side in pixels, or several with their shares of "
                "the steps: 64:60%,96:25%,128:15%"
            )
        stages.append(Stage(int(found[1]), float(found[2]) / 100 if found[2] else 0.0))
    without = [stage for stage in stages if not stage.share]
    if without and len(without) != len(stages):
        raise InputError(f"--resolution {text!r}: give all of them a share, or none")
    if without:
        return tuple(Stage(stage.resolution, 1 / len(stages)) for stage in stages)
    return tuple(stages)


def parse_range(text: str, what: str) -> tuple[int, int]:
    """`5` or `5-20`, both ends included."""
    found = re.fullmatch(r"\s*(\d{1,6})\s*(?:-\s*(\d{1,6}))?\s*", text)
    if found is None:
        raise InputError(f"{what} {text!r}: write a number, or from and to as in 5-20")
    return int(found[1]), int(found[2] or found[1])
