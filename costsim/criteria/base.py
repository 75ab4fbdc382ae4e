"""The interface of a criterion."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from costsim.criteria.loss import LOSSES, Loss
from costsim.data.source import Progress
from costsim.errors import InputError
from costsim.graph import LayerGraph
from costsim.importance import ChannelScores, Importance
from costsim.operators import Axis

if TYPE_CHECKING:
    from torch import Tensor

Target: TypeAlias = tuple[str, Axis]
"""What is scored: the channels of a layer along an axis."""


@dataclass(frozen=True, eq=False)
class Request:
    """What a criterion is asked: scores of `targets` for these samples and this model.

    `images` is `[N, C, H, W]` and `labels` `[N]`, both empty for a criterion that looks at no
    samples; `tensors` has a tensor for each of the graph's parameters.
    """

    graph: LayerGraph
    tensors: "Mapping[str, Tensor]"
    images: "NDArray[np.floating] | Tensor"
    labels: "NDArray[np.integer] | Tensor"
    targets: tuple[Target, ...]
    loss: Loss
    seed: int
    progress: Progress | None

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers of the targets, each once."""
        return tuple(dict.fromkeys(layer for layer, _ in self.targets))


class Criterion(ABC):
    """One way to score channels; subclasses are frozen dataclasses whose fields are options."""

    name: ClassVar[str]
    uses_samples: ClassVar[bool] = True

    @abstractmethod
    def channel_scores(self, request: Request) -> Mapping[Target, NDArray[np.float64]]:
        """The scores of every target of the request: finite, not negative, one a channel."""

    def score(
        self,
        graph: LayerGraph,
        tensors: "Mapping[str, Tensor]",
        images: "NDArray[np.floating] | Tensor | None" = None,
        labels: "NDArray[np.integer] | Tensor | None" = None,
        *,
        layers: Sequence[str],
        axes: Sequence[Axis] = ("output",),
        loss: str | Loss = "prototype",
        seed: int = 0,
        progress: Progress | None = None,
        source: str = "",
    ) -> Importance:
        """Scores of the channels of `layers` along each of `axes` that they have channels along.

        `images` `[N, C, H, W]` and `labels` `[N]` may be left out where `uses_samples` is false.
        `source` says where they come from and is only recorded.

        Raises `InputError` for unknown layers, axes and losses, samples that are missing or do
        not fit the model, and a model with weights, activations or gradients that are not
        finite (naming the first layer where that is so).
        """
        if images is None or labels is None:
            if self.uses_samples:
                raise InputError(f"criterion {self.name} needs labelled samples")
            images, labels = np.empty((0, 0)), np.empty(0, np.int64)
        elif len(images) != len(labels):
            raise InputError(f"{len(images)} images and {len(labels)} labels; one each is needed")
        elif self.uses_samples and not len(images):
            raise InputError(f"criterion {self.name} needs at least one sample")
        if isinstance(loss, str):
            if loss not in LOSSES:
                raise InputError(f"loss {loss!r} is unknown; allowed are {', '.join(LOSSES)}")
            loss = LOSSES[loss]
        targets = _targets(graph, layers, axes)
        request = Request(graph, tensors, images, labels, targets, loss, seed, progress)
        scores = self.channel_scores(request)
        importance = Importance(
            criterion=self.name,
            channels=tuple(
                ChannelScores(layer, axis, tuple(scores[layer, axis].tolist()))
                for layer, axis in targets
            ),
            samples=len(images) if self.uses_samples else 0,
            seed=seed,
            source=source if self.uses_samples else "",
        )
        importance.check(graph)
        return importance


def _targets(graph: LayerGraph, layers: Sequence[str], axes: Sequence[Axis]) -> tuple[Target, ...]:
    for axis in axes:
        if axis not in ("output", "input"):
            raise InputError(f"axis {axis!r}; allowed are output, input")
    for layer in layers:
        if layer not in graph.layers:
            raise InputError(f"layer {layer!r} is not in the model")
    wanted = set(layers)
    targets = tuple(
        (layer, axis)
        for layer in graph.layers
        if layer in wanted
        for axis in dict.fromkeys(axes)
        if graph.selectable_channels(layer, axis)
    )
    if not targets:
        raise InputError(
            f"no channels to score along {' or '.join(axes) or 'no axis'} "
            f"in {', '.join(layers) or 'no layers'}"
        )
    return targets
