"""What a method is faced with: one task, one network, one device, and what was computed of it."""

from collections.abc import Callable, Hashable
from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from costsim.base.errors import InputError, note
from costsim.data import Progress, Task
from costsim.ir.cuts import between, last_frozen_cut
from costsim.ir.graph import LayerGraph
from costsim.ir.operators import UpdateKind
from costsim.ir.recipe import Recipe
from costsim.ir.sample_axes import first_without_samples
from costsim.ir.step import TrainingStep
from costsim.learning.adaptation.drawn import Drawn
from costsim.learning.adaptation.place import Place
from costsim.learning.adaptation.problems import on_device, pose
from costsim.learning.training.backbone import Backbone
from costsim.learning.training.classifier import Answers, classify, cosine
from costsim.learning.training.copies import Copies
from costsim.learning.training.frozen_values import CACHE_BYTES, FrozenValues, advance
from costsim.learning.training.trainer import Support
from costsim.problem.budget import Budget
from costsim.problem.importance import ChannelScores, Importance, inspected_layers
from costsim.problem.problem import Problem
from costsim.run.criteria import make_criterion
from costsim.run.criteria.base import Criterion
from costsim.run.criteria.loss import PrototypeLoss, prototypes
from costsim.solving.planfile import PlanFile

T = TypeVar("T")


class Situation:
    """One task to be adapted to; shared by the methods that are compared on it.

    What a device keeps of frozen parts is the recipe's to say. Here everything is kept up to
    `cache_bytes`, so that it is computed once for all iterations, which gives the same values.
    `drawn` is how the task came about, for a plan file to say; `planned` a plan file of this very
    task, whose steps and budgets it has.

    Raises `InputError` for images of another size than the network takes and for a task of one
    class.
    """

    def __init__(
        self,
        backbone: Backbone,
        task: Task,
        place: Place,
        recipe: Recipe | None = None,
        progress: Progress | None = None,
        cache_bytes: int = CACHE_BYTES,
        drawn: Drawn | None = None,
        planned: PlanFile | None = None,
    ) -> None:
        if tuple(task.images.shape[1:]) != backbone.input_shape:
            raise InputError(
                f"the images are {task.images.shape[1:]}; {backbone.name} takes "
                f"{backbone.input_shape}"
            )
        if task.ways < 2:
            raise InputError("a task needs at least 2 classes to tell apart; it has 1")
        self.backbone, self.task, self.place = backbone, task, place
        self.recipe = recipe or Recipe()
        if self.recipe.augment and not task.are_images:
            note(f"{task.source}: no images, of which no changed copies are made (--no-augment)")
            self.recipe = replace(self.recipe, augment=False)
        self.progress, self.drawn, self.planned = progress, drawn or Drawn(), planned
        self._frozen = FrozenValues(backbone, cache_bytes)

    # The task as tensors.

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(array.copy())  # a copy: what comes in is read-only
        if tensor.is_floating_point():
            tensor = tensor.to(self.backbone.dtype)
        return tensor.to(self.backbone.device)

    @cached_property
    def images(self) -> Tensor:
        """Support images `[N, C, H, W]`."""
        return self._tensor(self.task.images)

    @cached_property
    def labels(self) -> Tensor:
        """Their labels `[N]`."""
        return self._tensor(self.task.labels)

    @cached_property
    def query_images(self) -> Tensor:
        """Query images `[M, C, H, W]`."""
        return self._tensor(self.task.query_images)

    @property
    def samples(self) -> int:
        """Support images in all."""
        return len(self.task.labels)

    # Its images as they are shown.

    @cached_property
    def copies(self) -> Copies:
        """The support images, lightly changed."""
        return Copies(self.images, self.recipe)

    @property
    def amounts(self) -> Tensor:
        """See `Copies.amounts`."""
        return self.copies.amounts

    @property
    def picks(self) -> Tensor:
        """See `Copies.picks`."""
        return self.copies.picks

    def copies_of(self, numbers: Tensor, chosen: Tensor) -> Tensor:
        """See `Copies.of`."""
        return self.copies.of(numbers, chosen)

    def support(self, chosen: Tensor | None = None) -> Support:
        """What the loop learns from; `chosen` `[n]`: only these images."""
        return Support(self.copies, self.labels, self._frozen, chosen)

    # What frozen parts compute of it.

    def values_at(self, cut: str) -> tuple[Tensor, Tensor | None]:
        """The values at a cut before which nothing is trained: of the images, and of all copies.

        Kept for the next method on the same task; see `FrozenValues.at`.
        """
        return self._frozen.at(cut, self.copies)

    @property
    def prefix_s(self) -> float:
        """Seconds that computing the frozen parts took here."""
        return self._frozen.seconds

    def advance(self, values: Tensor, start: str, end: str | None = None) -> Tensor:
        """From the values at a cut to those at another, by the model as it stands."""
        return advance(self.backbone, values, start, end)

    # What it answers as it is, and how channels are scored.

    @cached_property
    def base_accuracy(self) -> float:
        """Share of the query images that the untouched network classifies rightly."""
        return self.accuracy()

    def accuracy(self) -> float:
        """That of the network as it stands; not a number without queries."""
        return self.answers().accuracy

    def answers(self) -> Answers:
        """What the network says of the query images, as it stands."""
        labels = self._tensor(self.task.query_labels)
        if not len(labels):
            return Answers(labels, float("nan"), float("nan"))
        means = prototypes(self.backbone.features(self.images), self.labels)
        features = self.backbone.features(self.query_images)
        return classify(features, means, labels, self.recipe.temperature)

    def score(
        self,
        criterion: str | Criterion,
        layers: tuple[str, ...],
        axes: tuple[UpdateKind, ...] = ("output",),
    ) -> Importance:
        """The criterion's scores of `layers` on the support images, as they are.

        Computed from the last cut before those layers on: what lies before it is computed once
        and is needed for training too.
        """
        chosen = make_criterion(criterion)
        start = last_frozen_cut(self.backbone.graph(1), layers)
        graph = between(self.backbone.graph(self.backbone.pass_size(self.samples)), start)
        calls = [graph[name] for layer in layers for name in graph.layers[layer].calls]
        seen = {name for call in calls for name in (call.name, *call.inputs[:1])}
        if first_without_samples(graph, sorted(seen)) is not None:  # then one sample after another
            graph = between(self.backbone.graph(1), start)
        return chosen.score(
            graph,
            self.backbone.tensors,
            self.values_at(start)[0],
            self.labels,
            layers=layers,
            axes=axes,
            loss=PrototypeLoss(self.recipe.temperature),
            seed=self.recipe.seed,
            source=self.task.description,
        )

    # What it may cost.

    @property
    def graph(self) -> LayerGraph:
        """The graph that is priced: that of one pass of the device's step."""
        return self.backbone.graph(self.step.samples_a_pass)

    @property
    def step(self) -> TrainingStep:
        """The step that is priced."""
        return self.step_over(self.samples)

    def step_over(self, samples: int) -> TrainingStep:
        """That of a task of so many samples."""
        if self.planned is not None and samples == self.samples:
            return self.planned.step
        return self.recipe.step(samples, self.place.bits)

    @cached_property
    def budget(self) -> Budget:
        """The limits of a step on the device."""
        if self.planned is not None:
            return self.planned.budget
        return self.place.budget.resolve(self.place.device, self.graph, self.step)

    def on_device(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` made the first time it was asked for under this key, for this device."""
        return on_device(self.backbone, self.place, key, make)

    def problem(
        self, importance: Importance, *, with_bias: bool = False, samples: int | None = None
    ) -> Problem:
        """Which channels to update within the budgets, for a solver.

        Posed for a task of `samples` images, by default as many as this one has; see `pose`.
        """
        step, budget = self.step, self.budget
        if samples is not None:
            step = self.step_over(samples)
            graph = self.backbone.graph(step.samples_a_pass)
            budget = self.place.budget.resolve(self.place.device, graph, step)
        found = pose(self.backbone, self.place, step, budget, importance, with_bias=with_bias)
        found.seed = self.recipe.seed
        return found

    def tabulate(self, *, with_bias: bool = False) -> None:
        """Make the cost table that `problem` needs, as far as no task has a part in it."""
        if not any(self.graph.selectable_channels(name, "output") for name in self.graph.layers):
            return  # every weight is frozen: what is left to choose are biases
        layer = inspected_layers(self.graph, 1)[0]
        channels = self.graph.selectable_channels(layer, "output")
        nothing = Importance("none", (ChannelScores(layer, "output", (0.0,) * channels),))
        if self.budget.latency_s is None and self.budget.energy_j is None:
            self.problem(nothing, with_bias=with_bias)

    def make_ready(self, *, transductive: bool = False) -> None:
        """Trace the network for the passes to come, and find the limits: no clock counts that."""
        _ = self.budget
        queries = len(self.task.query_labels)
        counts = {self.samples, self.step.samples_a_pass}
        for count in {*counts, self.samples + queries} if transductive else counts:
            self.backbone.graph(self.backbone.pass_size(count))
        self.backbone.graph(self.step.samples_a_pass)

    def without_queries(self) -> "Situation":
        """The same task, whose query images and labels are not there to be looked at."""
        other = copy(self)
        task = self.task
        other.task = replace(
            task,
            query_images=task.query_images[:0],
            query_labels=task.query_labels[:0],
            query_paths=(),
        )
        for name in ("base_accuracy", "query_images"):
            other.__dict__.pop(name, None)
        return other

    def by(self, recipe: Recipe) -> "Situation":
        """The same task by another recipe."""
        if recipe == self.recipe:
            return self
        other = copy(self)
        other.recipe = recipe
        other._frozen = FrozenValues(self.backbone, self._frozen.cache_bytes)
        for name in ("budget", "copies"):
            other.__dict__.pop(name, None)
        return other

    def on(self, backbone: Backbone) -> "Situation":
        """The same task with another network."""
        if backbone is self.backbone:
            return self
        other = copy(self)
        other.backbone, other._frozen = backbone, FrozenValues(backbone, self._frozen.cache_bytes)
        for name in ("budget", "base_accuracy", "images", "query_images", "copies"):
            other.__dict__.pop(name, None)
        return other


__all__ = ["Answers", "Place", "Situation", "cosine"]
