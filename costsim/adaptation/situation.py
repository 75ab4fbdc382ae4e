"""What a method is faced with: one task, one network, one device, and what was computed of it."""

import time
from collections.abc import Callable, Hashable
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from costsim.adaptation.backbone import PASS, Backbone
from costsim.adaptation.prefix import between, cuts, last_frozen_cut
from costsim.adaptation.settings import Settings
from costsim.budget import Budget
from costsim.criteria import CRITERIA, Criterion
from costsim.criteria.loss import PrototypeLoss, prototypes
from costsim.data import Progress, Task
from costsim.device import ComputeTarget, DeviceSpec
from costsim.errors import InputError
from costsim.execution.forward import evaluate
from costsim.graph import LayerGraph
from costsim.importance import ChannelScores, Importance, inspected_layers
from costsim.operators import UpdateKind
from costsim.planner import BudgetRequest
from costsim.problem import Problem
from costsim.step import TrainingStep
from costsim.training.augment import augment, draw_amounts

T = TypeVar("T")

_STREAM = 0x41444150
"""Keeps these random numbers apart from those that drew the task from the same seed."""


@dataclass(frozen=True)
class Place:
    """The device that is priced: its compute target, and the budgets asked for."""

    device: DeviceSpec
    target_name: str | None = None
    budget: BudgetRequest = field(default_factory=BudgetRequest)

    @property
    def target(self) -> ComputeTarget:
        """The compute target."""
        return self.device.target(self.target_name)


@dataclass(frozen=True, eq=False)
class Answers:
    """The class `[M]` of each query image, the share of right ones, their mean log-likelihood.

    The class is that of the most similar class mean (cosine).
    """

    predictions: Tensor
    accuracy: float
    log_likelihood: float


class Situation:
    """One task to be adapted to; shared by the methods that are compared on it.

    Raises `InputError` for images of another size than the network takes and for a task of one
    class.
    """

    def __init__(
        self,
        backbone: Backbone,
        task: Task,
        place: Place,
        settings: Settings | None = None,
        progress: Progress | None = None,
    ) -> None:
        if tuple(task.images.shape[1:]) != backbone.input_shape:
            raise InputError(
                f"the images are {task.images.shape[1:]}; {backbone.name} takes "
                f"{backbone.input_shape}"
            )
        if task.ways < 2:
            raise InputError("a task needs at least 2 classes to tell apart; it has 1")
        self.backbone, self.task, self.place = backbone, task, place
        self.settings = settings or Settings()
        self.progress = progress
        self._values: dict[str, tuple[Tensor, Tensor | None]] = {}
        self.prefix_s = 0.0  # what computing the frozen parts took here

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

    @cached_property
    def amounts(self) -> Tensor:
        """How each copy of each image is changed, `[copies, N, 5]`; zeros change nothing."""
        copies = self.settings.drawn_copies
        rng = np.random.default_rng([_STREAM, self.settings.seed, 0])
        drawn = draw_amounts(rng, copies * self.samples).reshape(copies, self.samples, -1)
        return (drawn if self.settings.augment else torch.zeros_like(drawn)).to(
            self.images.device, self.images.dtype
        )

    @cached_property
    def picks(self) -> Tensor:
        """Which copy of each image an iteration shows, `[iterations, N]`."""
        settings = self.settings
        iterations, copies = settings.iterations, settings.drawn_copies
        if copies == iterations and not settings.copies:
            return torch.arange(iterations).unsqueeze(1).expand(-1, self.samples)
        rng = np.random.default_rng([_STREAM, settings.seed, 1])
        drawn = (rng.random((iterations, self.samples)) * copies).astype(np.int64)
        return torch.from_numpy(drawn)

    def copies_of(self, numbers: Tensor, chosen: Tensor) -> Tensor:
        """The copies `numbers` `[k]` of the images `chosen` `[k]`, `[k, C, H, W]`."""
        images = self.images[chosen]
        if not self.settings.augment:
            return images
        return augment(images, self.amounts[numbers, chosen])

    # What frozen parts compute of it.

    def values_at(self, cut: str) -> tuple[Tensor, Tensor | None]:
        """The values at a cut before which nothing is trained: of the images, and of all copies.

        `[N, ...]` and `[copies, N, ...]`; the latter is None where it would not pay (the cut is
        the input, copies are shown once) or would not fit in `cache_bytes`. Kept for the next
        method on the same task.
        """
        if cut == self.backbone.graph(1).input:
            return self.images, None
        if cut not in self._values:
            started = time.perf_counter()
            self._values[cut] = self._computed(cut)
            self.prefix_s += time.perf_counter() - started
        return self._values[cut]

    def _computed(self, cut: str) -> tuple[Tensor, Tensor | None]:
        """From the latest cut before this one of which the values are there."""
        graph, settings = self.backbone.graph(1), self.settings
        order = cuts(graph)
        earlier = [c for c in order[: order.index(cut)] if c in self._values]
        start, plain, pool = graph.input, self.images, None
        if earlier:
            start, (plain, pool) = earlier[-1], self._values[earlier[-1]]
        copies = settings.drawn_copies
        found = self.advance(plain, start, cut)
        size_bytes = found.element_size() * found.numel() * copies
        if copies >= settings.iterations or size_bytes > settings.cache_bytes:
            return found, None
        cached = found.new_empty((copies, *found.shape))
        everyone = torch.arange(self.samples)
        for number in range(copies):
            for part in torch.split(everyone, PASS):
                if pool is None:
                    changed = self.copies_of(torch.full_like(part, number), part)
                    cached[number, part] = self.advance(changed, graph.input, cut)
                else:
                    cached[number, part] = self.advance(pool[number, part], start, cut)
        return found, cached

    @torch.no_grad()
    def advance(self, values: Tensor, start: str, end: str | None = None) -> Tensor:
        """From the values at the cut `start` to those at the cut `end`, of any number of samples.

        By the model as it stands, for a traced model as many at a time as it was traced for.
        """
        if start == end:
            return values
        size = self.backbone.pass_size(len(values))
        graph = between(self.backbone.graph(size), start, end)
        parts = []
        for part in torch.split(values, size):
            count = len(part)
            if count < size:
                part = torch.cat([part, part[:1].expand(size - count, *part.shape[1:])])
            output, _ = evaluate(graph, self.backbone.tensors, part)
            parts.append(output[:count])
        return torch.cat(parts)

    # What it answers as it is, and how channels are scored.

    @cached_property
    def base_accuracy(self) -> float:
        """Share of the query images that the untouched network classifies rightly."""
        return self.accuracy()

    def accuracy(self) -> float:
        """That of the network as it stands; not a number without queries."""
        return self.answers().accuracy

    def answers(self) -> "Answers":
        """What the network says of the query images, as it stands."""
        labels = self._tensor(self.task.query_labels)
        if not len(labels):
            return Answers(labels, float("nan"), float("nan"))
        means = prototypes(self.backbone.features(self.images), self.labels)
        similarity = cosine(self.backbone.features(self.query_images), means)
        found = similarity.argmax(1)
        likelihoods = (self.settings.temperature * similarity).log_softmax(1)
        return Answers(
            found.cpu(),
            float((found == labels).double().mean()),
            float(likelihoods.gather(1, labels.unsqueeze(1)).double().mean()),
        )

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
        chosen = CRITERIA[criterion] if isinstance(criterion, str) else criterion
        start = last_frozen_cut(self.backbone.graph(1), layers)
        batch = self.backbone.pass_size(self.samples)
        return chosen.score(
            between(self.backbone.graph(batch), start),
            self.backbone.tensors,
            self.values_at(start)[0],
            self.labels,
            layers=layers,
            axes=axes,
            loss=PrototypeLoss(self.settings.temperature),
            seed=self.settings.seed,
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
        return self.settings.step(self.samples)

    @cached_property
    def budget(self) -> Budget:
        """The limits of a step on the device."""
        return self.place.budget.resolve(self.place.device, self.graph, self.step)

    def on_device(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` made the first time it was asked for under this key, for this device."""
        place = self.place
        known, found = self.backbone.derived(
            (key, place.device.name, place.target_name), lambda: (place, make())
        )
        if known.device is place.device or known.device == place.device:
            return found
        return make()  # another device of the same name

    def problem(
        self, importance: Importance, *, with_bias: bool = False, samples: int | None = None
    ) -> Problem:
        """Which channels to update within the budgets, for a solver.

        Posed for a task of `samples` images, by default as many as this one has. The cost table is
        made once for a network and its passes, for all tasks and devices; with limits in seconds
        or joules once for a device and a number of images.
        """
        place, step, budget = self.place, self.step, self.budget
        if samples is not None:
            step = self.settings.step(samples)
            graph = self.backbone.graph(step.samples_a_pass)
            budget = place.budget.resolve(place.device, graph, step)
        graph = self.backbone.graph(step.samples_a_pass)

        def timed() -> Problem:
            target = place.target
            return Problem(
                graph,
                step,
                importance,
                budget,
                with_bias=with_bias,
                timer=target,
                compute_w=target.power.compute.value,
            )

        if budget.latency_s is not None or budget.energy_j is not None:
            found = self.on_device((step, budget, with_bias), timed)
        else:
            few = _few_passes(step)
            found = self.backbone.derived(
                (few, with_bias),
                lambda: Problem(graph, few, importance, Budget(), with_bias=with_bias),
            )
            found = found.of_step(step, budget) if few != step else found.within(budget)
        found = found.rescored(importance)
        found.seed = self.settings.seed
        return found

    def tabulate(self, *, with_bias: bool = False) -> None:
        """Make the cost table that `problem` needs, as far as no task has a part in it."""
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

    def on(self, backbone: Backbone) -> "Situation":
        """The same task with another network."""
        if backbone is self.backbone:
            return self
        other = copy(self)
        other.backbone, other._values = backbone, {}
        for name in ("budget", "base_accuracy", "images", "query_images", "amounts"):
            other.__dict__.pop(name, None)
        return other


def _few_passes(step: TrainingStep) -> TrainingStep:
    """Two passes for any step of several: what they keep at a time is the same."""
    if step.passes == 1:
        return step
    return replace(step, batch=2 * step.samples_a_pass, micro_batch=step.samples_a_pass)


def cosine(features: Tensor, means: Tensor) -> Tensor:
    """Similarities `[N, classes]` of features `[N, D]` to means `[classes, D]`."""
    normal = torch.nn.functional.normalize
    return normal(features) @ normal(means).T
