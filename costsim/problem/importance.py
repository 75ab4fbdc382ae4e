"""How much each channel of each layer matters for one task: what a plan is chosen by."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from costsim.base.errors import InputError
from costsim.base.units import counted
from costsim.ir.graph import LayerGraph
from costsim.ir.operators import UpdateKind, elements
from costsim.problem.named_layers import NamedLayers

OUTPUT_CHANNELS: tuple[UpdateKind, ...] = ("output",)
"""What is scored of a layer where nobody asks for more."""

DEFAULT_INSPECTED_LAYERS = 18
"""The last six blocks of three convolutions of a MobileNet-like network."""


LARGEST_SCORE = 1e200
"""Of a channel; sums of larger ones, and what they are divided by, are beyond any float."""


@dataclass(frozen=True, slots=True)
class ChannelScores:
    """One score a channel of one layer's weight, along its `output` or its `input` axis.

    Scores are finite and not negative; channel `c` has `scores[c]`. Along the axis `bias` there is
    one score, that of the layer's whole bias.
    """

    layer: str
    axis: UpdateKind
    scores: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.axis not in ("output", "input", "bias"):
            raise InputError(
                f"layer {self.layer!r}: axis {self.axis!r} is not 'output', 'input' or 'bias'"
            )
        if not self.scores:
            raise InputError(f"layer {self.layer!r}: no scores; one a channel is needed")
        for channel, score in enumerate(self.scores):
            if not 0 <= score <= LARGEST_SCORE:
                raise InputError(
                    f"layer {self.layer!r}: the score of {self.axis} channel {channel} is {score}; "
                    f"a number from 0 to {LARGEST_SCORE:g} is needed"
                )


@dataclass(frozen=True)
class Importance:
    """Channel scores of the inspected layers under one criterion, in the model's order.

    `samples` is how many samples they were computed from (0: none were looked at), `source`
    where those came from, for a person.
    """

    criterion: str
    channels: tuple[ChannelScores, ...]
    samples: int = 0
    seed: int = 0
    source: str = ""

    def __post_init__(self) -> None:
        keys = [(entry.layer, entry.axis) for entry in self.channels]
        if len(set(keys)) != len(keys):
            layer, axis = next(key for key in keys if keys.count(key) > 1)
            raise InputError(f"layer {layer!r}: its {axis} channels are scored twice")

    @cached_property
    def _arrays(self) -> Mapping[tuple[str, UpdateKind], NDArray[np.float64]]:
        arrays: dict[tuple[str, UpdateKind], NDArray[np.float64]] = {}
        for entry in self.channels:
            array = np.array(entry.scores, np.float64)
            array.setflags(write=False)
            arrays[entry.layer, entry.axis] = array
        return arrays

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """The inspected layers, each once, in the model's order."""
        return tuple(dict.fromkeys(entry.layer for entry in self.channels))

    def axes(self, layer: str) -> tuple[UpdateKind, ...]:
        """The axes along which `layer` was scored; none if it was not inspected."""
        return tuple(entry.axis for entry in self.channels if entry.layer == layer)

    def scores(self, layer: str, axis: UpdateKind = "output") -> NDArray[np.float64]:
        """Scores of the channels of `layer` along `axis`, read-only.

        Raises `InputError` if they were not computed.
        """
        try:
            return self._arrays[layer, axis]
        except KeyError:
            raise InputError(
                f"layer {layer!r}: its {axis} channels have no {self.criterion} scores"
            ) from None

    def potential(self, layer: str, axis: UpdateKind = "output") -> float:
        """`P_i`, the sum of the scores of the layer's channels."""
        return math.fsum(self.scores(layer, axis))

    @cached_property
    def layer_gains(self) -> Mapping[str, float]:
        """The gain of updating all of each layer: its better axis, and its bias if scored."""
        gains = {}
        for layer in self.layers:
            by_axis = {axis: self.potential(layer, axis) for axis in self.axes(layer)}
            bias = by_axis.pop("bias", 0.0)
            gains[layer] = max(by_axis.values(), default=0.0) + bias
        return gains

    @property
    def full_gain(self) -> float:
        """The gain of updating everything that was inspected: what shares of gain are of."""
        return math.fsum(self.layer_gains.values())

    def share(self, gain: float | None) -> float | None:
        """`gain` as a share of the full gain; None without a gain, or where every score is 0."""
        full = self.full_gain
        return None if gain is None or full <= 0 else gain / full

    def check(self, graph: LayerGraph) -> None:
        """Raise `InputError` unless every layer is in `graph` with as many channels as scores."""
        for entry in self.channels:
            if entry.layer not in graph.layers:
                raise InputError(f"layer {entry.layer!r} is not in the model")
            graph.check_not_frozen(entry.layer, entry.axis)
            count = graph.selectable(entry.layer, entry.axis)
            if entry.axis == "bias" and len(entry.scores) != count:
                told = "has no bias" if not count else "has one bias"
                raise InputError(
                    f"layer {entry.layer!r} {told}; "
                    f"{counted(len(entry.scores), 'score')} of it given"
                )
            if len(entry.scores) != count:
                raise InputError(
                    f"layer {entry.layer!r} has "
                    f"{counted(count, f'selectable {entry.axis} channel')}; "
                    f"{counted(len(entry.scores), 'score')} given"
                )

    def to_json(self) -> dict[str, Any]:
        """The importance as one JSON document, schema `costsim.importance/1`."""
        return {
            "schema": "costsim.importance/1",
            "criterion": self.criterion,
            "samples": self.samples,
            "seed": self.seed,
            "source": self.source,
            "layers": [
                {"name": entry.layer, "axis": entry.axis, "scores": list(entry.scores)}
                for entry in self.channels
            ],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Importance":
        """The importance that `to_json` wrote; raises `InputError` for anything else."""
        if not isinstance(document, Mapping):
            raise InputError("importance: is not a mapping")
        if document.get("schema") != "costsim.importance/1":
            raise InputError(f"schema {document.get('schema')!r}; 'costsim.importance/1' is needed")
        try:
            return cls(
                criterion=str(document["criterion"]),
                channels=tuple(_channels_from_json(item) for item in document["layers"]),
                samples=int(document["samples"]),
                seed=int(document["seed"]),
                source=str(document["source"]),
            )
        except KeyError as error:
            raise InputError(f"importance: key {error} is missing") from error
        except (TypeError, ValueError) as error:
            raise InputError(f"importance: {error}") from error


def _channels_from_json(item: Mapping[str, Any]) -> ChannelScores:
    name = item["name"]
    try:
        return ChannelScores(name, item["axis"], tuple(float(score) for score in item["scores"]))
    except KeyError as error:
        raise InputError(f"importance of layer {name!r}: key {error} is missing") from error
    except (TypeError, ValueError) as error:
        raise InputError(f"importance of layer {name!r}: {error}") from error


def layer_macs(graph: LayerGraph, layer: str) -> int:
    """`M_i`: MACs of the forward pass of all calls of `layer`, a sample's share of the batch."""
    calls = [graph[name] for name in graph.layers[layer].calls]
    return sum(call.operator.forward_macs(graph.shapes(call)) for call in calls) // graph.batch


def inspected_layers(
    graph: LayerGraph,
    last: int | None = DEFAULT_INSPECTED_LAYERS,
    *,
    axes: Collection[UpdateKind] = OUTPUT_CHANNELS,
    named: NamedLayers | None = None,
) -> tuple[str, ...]:
    """The layers to be scored: the last `last` that have MACs and channels to select, or all.

    In the model's order (of first use). Normalisation layers are not among them: they have no
    MACs, and the paper's score divides by those. Nor are those whose weight is frozen, unless
    biases are among the `axes` and theirs is not. Of what is left, only those that are `named`.
    Raises `InputError` for `last` below 1, for a model without such layers, and for a pattern
    that matches none of them.
    """
    if last is not None and last < 1:
        raise InputError(f"inspected layers: {last}; at least 1 is needed")
    names = tuple(
        name
        for name in graph.layers
        if graph.channels(name, "output")
        and layer_macs(graph, name)
        and (
            graph.selectable_channels(name, "output")
            or ("bias" in axes and graph.selectable(name, "bias"))
        )
    )
    if not names:
        told = f": {told}" if (told := left_frozen(graph)) else ""
        raise InputError(f"the model has no convolution and no linear layer to update{told}")
    if named is not None:
        named.check(_choosable(graph, names, axes), tuple(graph.layers))
        names = tuple(name for name in names if named.means(name))
        if not names:
            raise InputError("the layers that were named have no MACs; name one that has")
    return names if last is None else names[-last:]


def _choosable(
    graph: LayerGraph, scored: Collection[str], axes: Collection[UpdateKind]
) -> list[str]:
    """Layers something of which may be a candidate: biases of normalisations are scored too."""
    return [
        name
        for name in graph.layers
        if name in scored or ("bias" in axes and graph.selectable(name, "bias"))
    ]


def left_frozen(graph: LayerGraph) -> str:
    """How much of a model its author froze, for a person; empty where nothing is."""
    if not graph.frozen:
        return ""
    owned = {part for layer in graph.layers.values() for part in (layer.weight, layer.bias) if part}
    layers = sum(
        any(part is not None and part.frozen for part in (layer.weight, layer.bias))
        for layer in graph.layers.values()
    )
    return (
        f"{sum(part.size for part in graph.frozen):,} of {sum(part.size for part in owned):,} "
        f"parameters, in {layers} of {counted(len(graph.layers), 'layer')}, are "
        "frozen by its author (requires_grad=False)"
    )


def tinytrain_scores(
    importance: Importance, graph: LayerGraph, axis: UpdateKind = "output"
) -> Mapping[str, float]:
    """The multi-objective score of each layer scored along `axis`, in the model's order.

    `s_i = P_i / ((|W_i| / max_l |W_l|) (M_i / max_l M_l))` with `P_i` the layer's potential,
    `|W_i|` its number of parameters (weight and bias), `M_i` its forward MACs, the maxima over
    the inspected layers (Kwon et al., "TinyTrain", ICML 2024). The paper has no word on layers
    that do none: a normalisation counts the multiplications by its scale in the forward pass, one
    an element. A bias is taken for a layer of its own: as many parameters as it has elements, and
    its additions for MACs.

    Raises `InputError` for scores that do not fit `graph`.
    """
    importance.check(graph)
    names = [name for name in importance.layers if axis in importance.axes(name)]
    if not names:
        return {}
    sizes, macs = {}, {}
    for name in names if axis != "bias" else importance.layers:
        layer = graph.layers[name]
        sizes[name] = sum(p.size for p in (layer.weight, layer.bias) if p is not None)
        macs[name] = layer_macs(graph, name) or _elementwise_operations(graph, name)
    largest, busiest = max(sizes.values()), max(macs.values())
    if axis == "bias":
        for name in names:
            sizes[name], macs[name] = _bias_size(graph, name), _elementwise_operations(graph, name)
    return {
        name: importance.potential(name, axis) / ((sizes[name] / largest) * (macs[name] / busiest))
        for name in names
    }


def _bias_size(graph: LayerGraph, layer: str) -> int:
    bias = graph.layers[layer].bias
    assert bias is not None
    return bias.size


def _elementwise_operations(graph: LayerGraph, layer: str) -> int:
    """One for each element of the outputs of `layer`, a sample's share of the batch."""
    shapes = [graph[name].shape for name in graph.layers[layer].calls]
    return max(1, sum(map(elements, shapes)) // graph.batch)
