"""Fine-tuning on a support set, one step of the training program at a time."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from costsim.base.errors import CostsimError, InputError
from costsim.ir.program import Atom, TrainingProgram
from costsim.learning.training.augment import augment, draw_amounts
from costsim.learning.training.checkpoint import RunState
from costsim.run.criteria.loss import LOSSES, prototype_loss, prototypes
from costsim.run.execution.executor import Executor, LossNotFinite

_STREAM = 0x5452414E
"""Keeps these random numbers apart from those that drew the task from the same seed."""

_MEANS: Atom = ("output", "the class means")

DEFAULT_LEARNING_RATES: Mapping[str, float] = {"sgd": 0.01, "momentum": 0.001, "adam": 0.003}
"""The best of a few tried on 5-way 5-shot traffic signs with mcunet-5fps, one sample a step."""


class Diverged(CostsimError):
    """The loss or a weight is no longer a finite number; says where."""


@dataclass(frozen=True)
class Settings:
    """How to fine-tune; what a step is stands in the plan."""

    learning_rate: float
    momentum: float = 0.9
    loss: str = "prototype"
    temperature: float = 10.0
    augment: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed, told in (
            # Above it a step cannot even be computed in float32.
            ("learning_rate", 0 <= self.learning_rate <= 1e37, "0 to 1e37"),
            ("momentum", 0 <= self.momentum < 1, "0 to below 1"),
            ("temperature", 0 < self.temperature < math.inf, "above 0"),
        ):
            if not allowed:
                value = getattr(self, name)
                raise InputError(f"{name.replace('_', ' ')} is {value:g}; allowed is {told}")
        LOSSES.check(self.loss)


class Trainer:
    """Trains the model's own `tensors` in place on `images` `[N, C, H, W]` with `labels` `[N]`.

    An iteration goes once through the samples in a random order, `batch` at a time; a last batch
    that is not full takes the first of that order again. With the prototype loss (the protocol of
    TinyTrain, ICML 2024, after Hu et al., CVPR 2022) class means of the samples as they are are
    taken at the start of an iteration and held constant; with `augment` the queries are lightly
    changed copies. What is drawn in an iteration depends on the seed and its number alone, so
    that nothing but `state()` and the weights need be kept to go on.

    `predict` gives the outputs of the model as it stands for images of any number.
    """

    def __init__(
        self,
        program: TrainingProgram,
        tensors: Mapping[str, Tensor],
        images: Tensor,
        labels: Tensor,
        settings: Settings,
        predict: Callable[[Tensor], Tensor],
    ) -> None:
        self.executor = Executor(
            program,
            tensors,
            learning_rate=settings.learning_rate,
            momentum=settings.momentum,
            loss=self._loss,
        )
        self.images, self.labels, self.settings = images, labels, settings
        self.predict = predict
        self.batches = math.ceil(len(images) / program.step.batch)
        self.iteration, self.batch = 0, 0
        self.losses: list[float] = []
        self._loss_sum = 0.0
        self._means: Tensor | None = None
        self._drawn: tuple[int, NDArray[np.int64], Tensor] | None = None

    def samples(self) -> NDArray[np.int64]:
        """Which samples the next step takes."""
        order, size = self._draw()[0], self.executor.program.step.batch
        return order[np.arange(self.batch * size, (self.batch + 1) * size) % len(order)]

    def step(self) -> float:
        """One step; its mean loss. Raises `Diverged` before anything of it is updated."""
        indices = self.samples()
        if self.batch == 0:
            self._loss_sum = 0.0
            if self.settings.loss == "prototype":
                self._means = prototypes(self.predict(self.images), self.labels)
        chosen = torch.from_numpy(indices)
        images = self.images[chosen]
        if self.settings.augment:
            images = augment(images, self._draw()[1][chosen])
        try:
            loss = float(self.executor.step(images, self.labels[chosen]))
        except LossNotFinite as error:
            raise Diverged(
                f"{error}, in iteration {self.iteration + 1}, batch {self.batch + 1} of "
                f"{self.batches}, samples {', '.join(map(str, indices))}"
            ) from error
        self._loss_sum += loss
        self.batch += 1
        if self.batch == self.batches:
            self.losses.append(self._loss_sum / self.batches)
            self.iteration, self.batch = self.iteration + 1, 0
        return loss

    def _loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        if self.settings.loss == "prototype":
            total = prototype_loss(outputs, labels, self.settings.temperature, self._means)
        else:
            total = LOSSES[self.settings.loss](outputs, labels, None)
        return total / len(labels)

    def _draw(self) -> tuple[NDArray[np.int64], Tensor]:
        """The order of this iteration, and the changes of each sample."""
        if self._drawn is None or self._drawn[0] != self.iteration:
            rng = np.random.default_rng([_STREAM, self.settings.seed, self.iteration])
            count = len(self.images)
            order = np.argsort(rng.random(count), kind="stable")
            self._drawn = (self.iteration, order, draw_amounts(rng, count))
        return self._drawn[1:]

    def state(self) -> RunState:
        """Everything that is needed to go on from here. Raises `Diverged` if it is not finite."""
        weights = {
            atom: selection.read(self.executor.parameter(atom)).clone()
            for atom, selection in self.executor.selections.items()
        }
        states = {atom: states.clone() for atom, states in self.executor.optimizer_state.items()}
        for kind, found in (("weights", weights), ("optimizer state", states)):
            for (_, layer), tensor in found.items():
                if not bool(torch.isfinite(tensor).all()):
                    raise Diverged(
                        f"the {kind} of layer {layer!r} are not finite in iteration "
                        f"{self.iteration + 1}, before batch {self.batch + 1} of {self.batches}"
                    )
        return RunState(
            iteration=self.iteration,
            batch=self.batch,
            losses=tuple(self.losses),
            loss_sum=self._loss_sum if self.batch else 0.0,
            weights=weights,
            optimizer=states,
            means=self._means if self.batch else None,
        )

    def restore(self, state: RunState, source: str) -> None:
        """Go on from `state`; raises `InputError`, nothing changed, where it does not fit."""
        executor = self.executor
        shapes = {atom: tuple(s.shape) for atom, s in executor.selections.items()}
        states = {atom: tuple(s.shape) for atom, s in executor.optimizer_state.items()}
        _check(state.weights, shapes, executor.dtype, f"{source}: weights")
        _check(state.optimizer, states, executor.dtype, f"{source}: optimizer state")
        needs_means = bool(state.batch) and self.settings.loss == "prototype"
        if not 0 <= state.batch < self.batches or len(state.losses) != state.iteration:
            raise InputError(
                f"{source}: iteration {state.iteration}, batch {state.batch} of "
                f"{self.batches} and {len(state.losses)} losses do not fit together"
            )
        if needs_means != (state.means is not None):
            raise InputError(
                f"{source}: class means are needed within an iteration, and only there"
            )
        if state.means is not None:
            outputs = self.predict(self.images[:1]).flatten(1)
            wanted = (int(self.labels.max()) + 1, outputs.shape[1])
            _check({_MEANS: state.means}, {_MEANS: wanted}, executor.dtype, source)
        with torch.no_grad():
            for atom, selection in executor.selections.items():
                selection.write(executor.parameter(atom), state.weights[atom])
            for atom, kept in executor.optimizer_state.items():
                kept.copy_(state.optimizer[atom])
        self.iteration, self.batch = state.iteration, state.batch
        executor.steps_done = self.iteration * self.batches + self.batch
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
