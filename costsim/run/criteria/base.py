"""The interface of a criterion."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from costsim.base.code import others_code
from costsim.base.errors import InputError, OthersFault, shown
from costsim.base.progress import Progress
from costsim.base.units import counted
from costsim.ir.graph import LayerGraph, Parameter
from costsim.ir.operators import UpdateKind
from costsim.ir.program import FISHER_WORK, ScoringWork
from costsim.problem.importance import ChannelScores, Importance, layer_macs
from costsim.run.criteria.loss import LOSSES, Loss

if TYPE_CHECKING:
    from torch import Tensor

Target: TypeAlias = tuple[str, UpdateKind]
"""What is scored: the channels of a layer along an axis, or (`bias`) its bias.

A criterion scores each element of a bias by the formula that it has for the weights of a channel,
and the bias by the sum, because it is trained whole.
"""


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

    def parameter(self, target: Target) -> Parameter:
        """The weight or the bias that a target is of."""
        layer, axis = self.graph.layers[target[0]], target[1]
        parameter = layer.bias if axis == "bias" else layer.weight
        assert parameter is not None
        return parameter


class Criterion(ABC):
    """One way to score channels; subclasses are frozen dataclasses whose fields are options.

    `work` is what scoring takes on the device, if it `uses_samples`.
    """

    name: ClassVar[str]
    uses_samples: ClassVar[bool] = True
    work: ClassVar[ScoringWork] = FISHER_WORK

    @abstractmethod
    def channel_scores(self, request: Request) -> Mapping[Target, NDArray[np.float64]]:
        """The scores of every target of the request: finite, not negative, one a channel.

        Of a bias one for each of its elements, or one alone.
        """

    def score(  # noqa: PLR0913 - what a person may say of a score, each with a default
        self,
        graph: LayerGraph,
        tensors: "Mapping[str, Tensor]",
        images: "NDArray[np.floating] | Tensor | None" = None,
        labels: "NDArray[np.integer] | Tensor | None" = None,
        *,
        layers: Sequence[str],
        axes: Sequence[UpdateKind] = ("output",),
        loss: str | Loss = "prototype",
        seed: int = 0,
        progress: Progress | None = None,
        source: str = "",
    ) -> Importance:
        """Scores of the channels of `layers` along each of `axes` that they have channels along.

        Along the axis `bias`: of the biases of `layers`, and of the normalisations that come after
        the first of them, where many networks have their only biases.

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
            raise InputError(
                f"{counted(len(images), 'image')} and {counted(len(labels), 'label')}; "
                "one each is needed"
            )
        elif self.uses_samples and not len(images):
            raise InputError(f"criterion {self.name} needs at least one sample")
        if isinstance(loss, str):
            loss = LOSSES.make(loss)
        targets = _targets(graph, layers, axes)
        request = Request(graph, tensors, images, labels, targets, loss, seed, progress)
        scores = _scores_of(self, request)
        importance = Importance(
            criterion=self.name,
            channels=tuple(ChannelScores(*target, scores[target]) for target in targets),
            samples=len(images) if self.uses_samples else 0,
            seed=seed,
            source=source if self.uses_samples else "",
        )
        importance.check(graph)
        return importance


@dataclass(frozen=True, eq=False)
class FunctionCriterion(Criterion):
    """A plain function as a criterion: from a `Request`, and `options` by name, to the scores of
    its targets. It is called by the function's name."""

    function: Callable[..., Mapping[Target, NDArray[np.float64]]]
    options: Mapping[str, object]

    @property
    def name(self) -> str:  # type: ignore[override]
        """The function's."""
        return self.function.__name__

    def channel_scores(self, request: Request) -> Mapping[Target, NDArray[np.float64]]:
        """What the function says."""
        return self.function(request, **self.options)


def _scores_of(criterion: Criterion, request: Request) -> Mapping[Target, tuple[float, ...]]:
    """What `criterion` says; raises `OthersFault` where it fails, and for what are no scores."""
    told = f"criterion {criterion.name}"
    with others_code(told):
        found: object = criterion.channel_scores(request)
    if not isinstance(found, Mapping):
        raise OthersFault(f"{told} gives {shown(found)}; scores by layer and axis are needed")
    return {target: _of_target(target, found, told) for target in request.targets}


def _of_target(target: Target, found: Mapping[object, object], told: str) -> tuple[float, ...]:
    if target not in found:
        raise OthersFault(f"{told} gives no scores of {target}")
    given = found[target]
    try:
        scores = np.asarray(given)
        one = scores.dtype.kind in "fiu" and scores.ndim == 1
    except Exception:  # such as a tensor that has a gradient
        one = False
    if not one:
        raise OthersFault(f"{told} gives {shown(given)} for {target}; numbers, one a channel")
    return (float(scores.sum()),) if target[1] == "bias" else tuple(map(float, scores.tolist()))


def _targets(
    graph: LayerGraph, layers: Sequence[str], axes: Sequence[UpdateKind]
) -> tuple[Target, ...]:
    for axis in axes:
        if axis not in ("output", "input", "bias"):
            raise InputError(f"axis {axis!r}; allowed are output, input, bias")
    for layer in layers:
        if layer not in graph.layers:
            raise InputError(f"layer {layer!r} is not in the model")
    wanted, targets, began = set(layers), list[Target](), False
    for layer in graph.layers:
        began |= layer in wanted
        for axis in dict.fromkeys(axes):
            if axis == "bias":
                norm = began and not layer_macs(graph, layer)
                able = (norm or layer in wanted) and _has_channel_bias(graph, layer)
            else:
                able = layer in wanted and graph.selectable_channels(layer, axis) > 0
            if able:
                targets.append((layer, axis))
    if not targets:
        raise InputError(
            f"no channels to score along {' or '.join(axes) or 'no axis'} "
            f"in {', '.join(layers) or 'no layers'}"
        )
    return tuple(targets)


def _has_channel_bias(graph: LayerGraph, layer: str) -> bool:
    """Whether a layer has a bias to update with an element for each of its output channels."""
    bias, count = graph.layers[layer].bias, graph.channels(layer, "output")
    return bias is not None and not bias.frozen and bias.shape == (count,)
