"""The iterations of an adaptation, by the training program."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from costsim.ir.plan import UpdatePlan
from costsim.ir.program import Atom
from costsim.learning.adaptation.situation import Situation
from costsim.learning.training.trainer import Diverged, Trainer
from costsim.run.execution.selection import Selection

Watch: TypeAlias = Callable[[int, float], bool]
"""Called after each iteration with its number from 1 and its loss; false ends the training."""


@dataclass(frozen=True, eq=False)
class Update:
    """A plan, the parts of the tensors that it trains, and their values before."""

    plan: UpdatePlan
    selections: Mapping[Atom, Selection]
    parameters: Mapping[Atom, Tensor]
    base: Mapping[Atom, Tensor]

    @torch.no_grad()
    def read(self) -> dict[Atom, Tensor]:
        """The selected parts as they are now."""
        return {
            atom: selection.read(self.parameters[atom]).clone()
            for atom, selection in self.selections.items()
        }

    @torch.no_grad()
    def write(self, values: Mapping[Atom, Tensor]) -> None:
        """Put such parts back."""
        for atom, selection in self.selections.items():
            selection.write(self.parameters[atom], values[atom])

    def mix(self, trained: Mapping[Atom, Tensor], share: float) -> dict[Atom, Tensor]:
        """The base moved by `share` of the way towards `trained`; 0 is the base to the bit."""
        if share in (0.0, 1.0):
            return dict(trained if share else self.base)
        return {atom: torch.lerp(self.base[atom], trained[atom], share) for atom in self.base}

    def keep(self, share: float) -> None:
        """Leave `share` of the change."""
        if share < 1:
            self.write(self.mix(self.read(), share))

    def restore(self) -> None:
        """The base again, to the bit."""
        self.write(self.base)

    @property
    def finite(self) -> bool:
        """Whether every trained value is a number."""
        return all(bool(torch.isfinite(part).all()) for part in self.read().values())


@dataclass(frozen=True, eq=False)
class Trained:
    """What the iterations did. `diverged`: the loss stopped being a number, and so did they."""

    update: Update
    losses: tuple[float, ...]
    diverged: bool
    learning_rate: float = 0.0


def train(
    situation: Situation,
    plan: UpdatePlan,
    learning_rate: float,
    *,
    transductive: bool = False,
    samples: Tensor | None = None,
    watch: Watch | None = None,
) -> Trained:
    """Train what `plan` selects of the situation's network, in place.

    `samples` `[n]`: only these support images exist (all of them without it). With `transductive`
    the loss is the cross entropy of the support images plus the mean entropy of the predictions
    of the query images.
    """
    recipe = situation.recipe
    queries = situation.query_images if transductive else None
    support = situation.support(samples)
    trainer = Trainer(situation.backbone, plan, support, learning_rate, queries)
    update = Update(plan, trainer.selections, trainer.parameters(), trainer.trained())
    broken: tuple[float, ...] = ()
    while trainer.iteration < recipe.iterations:
        try:
            trainer.step()
        except Diverged as error:
            broken = (error.loss,)
            break
        if trainer.batch:
            continue
        done, loss = trainer.iteration, trainer.losses[-1]
        if situation.progress is not None:
            situation.progress(f"training: loss {loss:.3f}", done, recipe.iterations)
        if watch is not None and not watch(done, loss):
            break
    return Trained(
        update,
        (*trainer.losses, *broken),
        bool(broken) or not update.finite,
        learning_rate,
    )
