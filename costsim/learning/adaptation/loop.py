"""The iterations of an adaptation, by the training program."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from costsim.ir.cuts import between, last_frozen_cut, updated_layers
from costsim.ir.plan import UpdatePlan
from costsim.ir.program import Atom, compile_program
from costsim.ir.step import TrainingStep
from costsim.learning.adaptation.classifier import cosine
from costsim.learning.adaptation.showings import showings
from costsim.learning.adaptation.situation import Situation
from costsim.run.criteria.loss import prototypes
from costsim.run.execution.executor import Executor
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
    recipe, backbone = situation.recipe, situation.backbone
    cut = last_frozen_cut(backbone.graph(1), updated_layers(plan))
    chosen = torch.arange(situation.samples) if samples is None else samples.cpu()
    labels = situation.labels[chosen]
    most = recipe.images_a_step(len(chosen))
    batch = _Batch(situation, plan, cut, most, transductive, learning_rate)
    everything, pool = situation.values_at(cut)
    plain = everything[chosen]

    def shown(iteration: int, images: Tensor) -> Tensor:
        numbers = situation.picks[iteration][images]
        if pool is not None:
            return pool[numbers, images]
        if not recipe.augment:
            return everything[images]
        changed = situation.copies_of(numbers, images)
        return situation.advance(changed, backbone.graph(1).input, cut)

    queries = None
    if transductive:
        queries = situation.advance(situation.query_images, backbone.graph(1).input, cut)
    losses: list[float] = []
    means = plain.new_zeros(())
    for iteration, places in enumerate(showings(labels, recipe)):
        if iteration % recipe.means_interval == 0:
            means = prototypes(situation.advance(plain, cut), labels)
        images = shown(iteration, chosen[places])
        loss = batch.step(images, labels[places], means, queries)
        losses.append(loss)
        if situation.progress is not None:
            situation.progress(f"training: loss {loss:.3f}", iteration + 1, recipe.iterations)
        if not math.isfinite(loss) or (watch is not None and not watch(iteration + 1, loss)):
            break
    diverged = not math.isfinite(losses[-1]) or not batch.update.finite
    return Trained(batch.update, tuple(losses), diverged, learning_rate)


class _Batch:
    """One optimizer step over up to `most` support images, `PASS` or fewer samples at a time."""

    def __init__(
        self, situation: Situation, plan: UpdatePlan, cut: str, most: int, transductive: bool,
        learning_rate: float,
    ) -> None:  # fmt: skip
        recipe, backbone = situation.recipe, situation.backbone
        queries = len(situation.task.query_labels) if transductive else 0
        self.queries, self.temperature = queries, recipe.temperature
        self.size = backbone.pass_size(most + queries)
        self.passes = math.ceil((most + queries) / self.size)
        graph = between(backbone.graph(self.size), cut)
        step = TrainingStep(
            batch=self.size * self.passes,
            micro_batch=self.size if self.passes > 1 else None,
            optimizer=recipe.optimizer,
        )
        self.executor = executor = Executor(
            compile_program(graph, plan, step),
            backbone.tensors,
            learning_rate=learning_rate,
            momentum=recipe.momentum,
        )
        parameters = {atom: executor.parameter(atom) for atom in executor.selections}
        base = {
            atom: selection.read(parameters[atom]).detach().clone()
            for atom, selection in executor.selections.items()
        }
        self.update = Update(plan, executor.selections, parameters, base)

    def step(self, shown: Tensor, labels: Tensor, means: Tensor, queries: Tensor | None) -> float:
        """The mean loss over the support (plus that over the queries), whose step was taken."""
        rows = shown if queries is None else torch.cat([shown, queries])
        executor, total = self.executor, rows.new_zeros(())
        state = executor.begin()
        for part in torch.split(torch.arange(len(rows)), self.size):
            filled = part
            if len(part) < self.size:
                filled = torch.cat([part, part[:1].expand(self.size - len(part))])
            output = executor.forward(state, rows[filled])
            with torch.enable_grad():
                leaf = output.detach().requires_grad_()
                loss = self._loss(leaf.flatten(1)[: len(part)], part, labels, means)
                (gradient,) = torch.autograd.grad(loss, leaf)
            total += loss.detach()
            executor.backward(state, gradient)
        executor.update(state)
        return float(total)

    def _loss(self, features: Tensor, part: Tensor, labels: Tensor, means: Tensor) -> Tensor:
        """The share of these rows, of which those of the support have `labels`, in the loss."""
        logits = self.temperature * cosine(features, means)
        support = part < len(labels)
        known = functional.cross_entropy(
            logits[support], labels[part[support]], reduction="sum"
        ) / len(labels)
        if not self.queries:
            return known
        open_logits = logits[~support].log_softmax(1)
        return known - (open_logits.exp() * open_logits).sum() / self.queries
