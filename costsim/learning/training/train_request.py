"""What is asked of a fine-tuning run, and what of it is the plan's."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from costsim.ir.recipe import Loss, Recipe
from costsim.run.native import Backend
from costsim.solving.planfile import PlanFile


@dataclass(frozen=True)
class TrainRequest:
    """What is asked of `prepare`; the defaults are those of the command line.

    What is None of data, split, ways, shots, queries, and of the recipe, is the plan's. Where
    nothing is said of the task it must be the one that the plan was made for, image for image.
    """

    plan: PlanFile
    source: str = "plan"
    weights: Path | None = None
    data: Path | None = None
    split: str | None = None
    ways: int | None = None
    shots: int | None = None
    queries: int | None = None
    iterations: int | None = None
    learning_rate: float | None = None
    momentum: float | None = None
    loss: Loss | None = None
    augment: bool | None = None
    seed: int | None = None
    checkpoint: Path | None = None
    checkpoint_every: int = 1
    evaluate_every: int = 0
    resume: bool = False
    backend: Backend = "torch"

    @property
    def recipe(self) -> Recipe:
        """The plan's, with what is asked otherwise; raises `InputError` for what no recipe allows.

        Where the network is cut, and where a device keeps what comes before, changes no result and
        is left to the loop.
        """
        given = {
            "iterations": self.iterations,
            "learning_rate": self.learning_rate,
            "momentum": self.momentum,
            "loss": self.loss,
            "augment": self.augment,
            "seed": self.seed,
        }
        changed: dict[str, Any] = {name: one for name, one in given.items() if one is not None}
        if changed.get("loss") == "cross_entropy":
            changed["means_interval"] = 1
        return replace(self.plan.recipe, cut=None, cache_in="nothing", **changed)

    @property
    def is_the_plans(self) -> bool:
        """Whether nothing is said of the task but what the plan says."""
        told = (self.data, self.split, self.ways, self.shots, self.seed)
        return all(one is None for one in told)
