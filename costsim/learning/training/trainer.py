"""The one loop that trains: the iterations of a recipe, one optimizer step at a time."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from costsim.base.errors import CostsimError, InputError
from costsim.ir.cuts import between, last_frozen_cut, updated_layers
from costsim.ir.plan import UpdatePlan
from costsim.ir.program import Atom, compile_program
from costsim.ir.recipe import Recipe
from costsim.ir.step import TrainingStep
from costsim.learning.training.checkpoint import RunState
from costsim.learning.training.classifier import cosine
from costsim.learning.training.copies import Copies
from costsim.learning.training.frozen_values import FrozenValues, advance
from costsim.learning.training.network import Trainable
from costsim.learning.training.showings import showings
from costsim.run.criteria.loss import LOSSES, prototypes
from costsim.run.execution.executor import Executor
from costsim.run.execution.selection import Selection
from costsim.run.native.backend import make_executor

_STREAM = 0x5452414E
"""Keeps these random numbers apart from those that drew the task from the same seed."""

_MEANS: Atom = ("output", "the class means")


class Diverged(CostsimError):
    """The loss or a weight is no longer a finite number; says where. `loss`: what it was."""

    def __init__(self, told: str, loss: float = math.nan) -> None:
        super().__init__(told)
        self.loss = loss


@dataclass(frozen=True, eq=False)
class Support:
    """The images that are learnt from: of one task, as they are shown.

    `labels` `[N]` are those of the images of `copies`; `frozen` keeps what frozen parts compute of
    them. `chosen` `[n]`: only these exist (all of them for None).
    """

    copies: Copies
    labels: Tensor
    frozen: FrozenValues
    chosen: Tensor | None = None

    @cached_property
    def places(self) -> Tensor:
        """Which of the images exist."""
        return torch.arange(len(self.labels)) if self.chosen is None else self.chosen.cpu()


class Trainer:
    """Trains what `plan` selects of a network, in place, on `support`, as its recipe says.

    Iterations begin at the last cut before which nothing is trained; what is computed up to there
    is computed once for each image and copy, as far as it is kept (`FrozenValues`), which gives the
    same values. Class means are held constant for the gradient. What is drawn in an iteration
    depends on the seed and its number alone, so that nothing but `state()` and the weights need be
    kept to go on.

    With `queries` `[M, C, H, W]` the loss of each step is that of its images plus the mean entropy
    of the predictions of these.
    """

    def __init__(
        self,
        network: Trainable,
        plan: UpdatePlan,
        support: Support,
        learning_rate: float,
        queries: Tensor | None = None,
    ) -> None:
        self.network, self.plan, self.support = network, plan, support
        self.recipe: Recipe = support.copies.recipe
        self.labels = support.labels[support.places]
        graph = network.graph(1)
        network.graph(network.pass_size(len(self.labels)))  # for class means; traced before steps
        self.trains = bool(plan.subsets or plan.biases)
        self.cut = last_frozen_cut(graph, updated_layers(plan)) if self.trains else graph.input
        self.shown = showings(self.labels, self.recipe)
        self.values, self.pool = support.frozen.at(self.cut, support.copies)
        self.queries = None
        if queries is not None:
            self.queries = advance(network, queries, graph.input, self.cut)
        self.executor = self._executor(learning_rate)
        self.iteration, self.batch = 0, 0
        self.losses: list[float] = []
        self._loss_sum = 0.0
        self._means: Tensor | None = None

    def _executor(self, learning_rate: float) -> Executor:
        most = self.recipe.batch or self.recipe.images_a_step(len(self.labels))
        rows = most + (0 if self.queries is None else len(self.queries))
        self.size = self.network.pass_size(rows)
        passes = math.ceil(rows / self.size)
        step = TrainingStep(
            batch=self.size * passes,
            micro_batch=self.size if passes > 1 else None,
            optimizer=self.recipe.optimizer,
        )
        graph = between(self.network.graph(self.size), self.cut)
        return make_executor(
            compile_program(graph, self.plan, step),
            self.network.tensors,
            self.network.backend,
            learning_rate=learning_rate,
            momentum=self.recipe.momentum,
        )

    # What a step takes.

    def batches(self, iteration: int | None = None) -> int:
        """How many steps an iteration is, by default the present one."""
        shown = len(self._shown(self.iteration if iteration is None else iteration))
        return math.ceil(shown / (self.recipe.batch or shown))

    def _shown(self, iteration: int) -> Tensor:
        return self.shown[iteration % len(self.shown)]

    def samples(self) -> NDArray[np.int64]:
        """Which images, of those that exist, the next step takes."""
        shown: NDArray[np.int64] = self._shown(self.iteration).numpy()
        size = self.recipe.batch
        if size is None:
            return shown
        rng = np.random.default_rng([_STREAM, self.recipe.seed, self.iteration])
        order = shown[np.argsort(rng.random(len(shown)), kind="stable")]
        taken: NDArray[np.int64] = order[
            np.arange(self.batch * size, (self.batch + 1) * size) % len(order)
        ]
        return taken

    def _values_of(self, places: Tensor) -> Tensor:
        """What is at the cut of these images, as the present iteration shows them."""
        copies = self.support.copies
        images = self.support.places[places]
        if not self.recipe.augment:
            return self.values[images]
        numbers = copies.picks[self.iteration][images]
        if self.pool is not None:
            return self.pool[numbers, images]
        changed = copies.of(numbers, images)
        return advance(self.network, changed, self.network.graph(1).input, self.cut)

    # One step.

    def step(self) -> float:
        """One optimizer step; its mean loss. Raises `Diverged` before anything of it is updated."""
        if self.batch == 0:
            self._loss_sum = 0.0
            if self._renews(self.iteration):
                plain = self.values[self.support.places]
                self._means = prototypes(advance(self.network, plain, self.cut), self.labels)
        taken = self.samples()
        places = torch.from_numpy(taken.copy())
        loss = self._step(self._values_of(places), self.labels[places])
        if not math.isfinite(loss):
            raise Diverged(
                f"the loss is {loss} at step {self.executor.steps_done + 1}, in iteration "
                f"{self.iteration + 1}, batch {self.batch + 1} of {self.batches()}, samples "
                f"{', '.join(map(str, taken))}",
                loss,
            )
        self._loss_sum += loss
        self.batch += 1
        if self.batch == self.batches():
            self.losses.append(self._loss_sum / self.batch)
            self.iteration, self.batch = self.iteration + 1, 0
        return loss

    def _renews(self, iteration: int) -> bool:
        """Whether an iteration begins with class means taken anew."""
        return self.recipe.loss == "prototype" and iteration % self.recipe.means_interval == 0

    def _step(self, shown: Tensor, labels: Tensor) -> float:
        rows = shown if self.queries is None else torch.cat([shown, self.queries])
        executor, total = self.executor, rows.new_zeros(())
        state = executor.begin()
        for part in torch.split(torch.arange(len(rows)), self.size):
            filled = part
            if len(part) < self.size:
                filled = torch.cat([part, part[:1].expand(self.size - len(part))])
            output = executor.forward(state, rows[filled])
            with torch.enable_grad():
                leaf = output.detach().requires_grad_()
                loss = self._loss(leaf[: len(part)], part, labels)
                (gradient,) = torch.autograd.grad(loss, leaf)
            total += loss.detach()
            executor.backward(state, gradient if self.trains else None)
        value = float(total)
        if math.isfinite(value):
            executor.update(state)
        return value

    def _loss(self, outputs: Tensor, part: Tensor, labels: Tensor) -> Tensor:
        """The share of these rows, of which those of the support have `labels`, in the loss."""
        support = part < len(labels)
        wanted = labels[part[support]]
        if self.recipe.loss != "prototype":
            return LOSSES[self.recipe.loss](outputs[support], wanted, None) / len(labels)
        assert self._means is not None
        logits = self.recipe.temperature * cosine(outputs.flatten(1), self._means)
        known = functional.cross_entropy(logits[support], wanted, reduction="sum") / len(labels)
        if self.queries is None:
            return known
        open_logits = logits[~support].log_softmax(1)
        return known - (open_logits.exp() * open_logits).sum() / len(self.queries)

    # What is trained.

    @property
    def selections(self) -> Mapping[Atom, Selection]:
        """The parts of tensors that are trained."""
        return self.executor.selections

    def parameters(self) -> dict[Atom, Tensor]:
        """The tensors that these are parts of."""
        return {atom: self.executor.parameter(atom) for atom in self.selections}

    def trained(self) -> dict[Atom, Tensor]:
        """The selected parts as they are now."""
        return {
            atom: selection.read(self.executor.parameter(atom)).detach().clone()
            for atom, selection in self.selections.items()
        }

    # Stopping and going on.

    def state(self) -> RunState:
        """Everything that is needed to go on from here. Raises `Diverged` if it is not finite."""
        weights = self.trained()
        states = {atom: states.clone() for atom, states in self.executor.optimizer_state.items()}
        for kind, found in (("weights", weights), ("optimizer state", states)):
            for (_, layer), tensor in found.items():
                if not bool(torch.isfinite(tensor).all()):
                    raise Diverged(
                        f"the {kind} of layer {layer!r} are not finite in iteration "
                        f"{self.iteration + 1}, before batch {self.batch + 1} of {self.batches()}"
                    )
        return RunState(
            iteration=self.iteration,
            batch=self.batch,
            losses=tuple(self.losses),
            loss_sum=self._loss_sum if self.batch else 0.0,
            weights=weights,
            optimizer=states,
            means=self._means if self._keeps_means(self.iteration, self.batch) else None,
        )

    def _keeps_means(self, iteration: int, batch: int) -> bool:
        """Whether the next step goes by class means of one before it."""
        own = self.recipe.loss == "prototype"
        return own and (batch > 0 or not self._renews(iteration))

    def restore(self, state: RunState, source: str) -> None:
        """Go on from `state`; raises `InputError`, nothing changed, where it does not fit."""
        executor = self.executor
        shapes = {atom: tuple(s.shape) for atom, s in executor.selections.items()}
        states = {atom: tuple(s.shape) for atom, s in executor.optimizer_state.items()}
        _check(state.weights, shapes, executor.dtype, f"{source}: weights")
        _check(state.optimizer, states, executor.dtype, f"{source}: optimizer state")
        batches = self.batches(max(0, state.iteration))
        if not 0 <= state.batch < batches or len(state.losses) != state.iteration:
            raise InputError(
                f"{source}: iteration {state.iteration}, batch {state.batch} of "
                f"{batches} and {len(state.losses)} losses do not fit together"
            )
        if self._keeps_means(state.iteration, state.batch) != (state.means is not None):
            raise InputError(
                f"{source}: class means are needed within an iteration, or until they are taken "
                "anew, and only there"
            )
        if state.means is not None:
            graph = self.network.graph(1)
            features = math.prod(graph[graph.output].shape[1:])
            wanted = (int(self.labels.max()) + 1, features)
            _check({_MEANS: state.means}, {_MEANS: wanted}, executor.dtype, source)
        with torch.no_grad():
            for atom, selection in executor.selections.items():
                selection.write(executor.parameter(atom), state.weights[atom])
            for atom, kept in executor.optimizer_state.items():
                kept.copy_(state.optimizer[atom])
        self.iteration, self.batch = state.iteration, state.batch
        executor.steps_done = sum(map(self.batches, range(self.iteration))) + self.batch
        self.losses, self._loss_sum = list(state.losses), state.loss_sum
        self._means = state.means


def _check(
    found: Mapping[Atom, Tensor],
    wanted: Mapping[Atom, tuple[int, ...]],
    dtype: torch.dtype,
    where: str,
) -> None:
    if odd := sorted(found.keys() ^ wanted.keys()):
        told = "missing" if odd[0] in wanted else "not part of the plan"
        raise InputError(f"{where}: {' of '.join(odd[0])} is {told}")
    for atom, shape in wanted.items():
        tensor = found[atom]
        if tuple(tensor.shape) != shape or tensor.dtype != dtype:
            raise InputError(
                f"{where}: {' of '.join(atom)} is {tuple(tensor.shape)}, {tensor.dtype}; "
                f"{shape}, {dtype} is needed"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{where}: {' of '.join(atom)} has values that are not finite")
