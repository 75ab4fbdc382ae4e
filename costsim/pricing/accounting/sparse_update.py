"""The static schemes of SparseUpdate, the method of "On-Device Training Under 256KB Memory".

One scheme for each network and memory size, found offline by evolutionary search. Source: MIT HAN
Lab, tiny-training, MIT licence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from costsim.base.errors import InputError
from costsim.ir.graph import Call, LayerGraph
from costsim.ir.operators import Convolution
from costsim.ir.plan import ChannelSubset, UpdatePlan


@dataclass(frozen=True, slots=True)
class SparseUpdateScheme:
    """Which input channels and biases one published scheme updates.

    `ratios` maps the position of a convolution among all (first = 0) to the share of its input
    channels; the last `biases` of the network's `convolutions` update their bias. `size_kb` is
    the published size in units of 1024 bytes, rounded down.
    """

    network: str
    size_kb: int
    convolutions: int
    biases: int
    ratios: Mapping[int, float]


SCHEMES: tuple[SparseUpdateScheme, ...] = (
    SparseUpdateScheme(
        "mcunet-5fps", 49, 42, 20, {23: 0.0, 24: 0.25, 27: 0.5, 30: 0.5, 33: 0.0, 39: 0.0}
    ),
    SparseUpdateScheme(
        "mcunet-5fps", 74, 42, 21, {21: 1.0, 23: 0.0, 24: 1.0, 26: 0.0, 27: 0.5, 30: 1.0}
    ),
    SparseUpdateScheme(
        "mcunet-5fps", 99, 42, 22, {21: 1.0, 24: 1.0, 27: 1.0, 30: 1.0, 36: 0.125, 39: 0.25}
    ),
    SparseUpdateScheme(
        "mcunet-5fps", 124, 42, 24, {21: 0.25, 24: 1.0, 27: 1.0, 30: 1.0, 33: 0.5, 39: 0.5}
    ),
    SparseUpdateScheme(
        "mcunet-5fps", 148, 42, 23, {21: 1.0, 24: 1.0, 27: 1.0, 30: 1.0, 36: 1.0, 39: 0.5}
    ),
    SparseUpdateScheme(
        "mbv2-w0.35",
        99,
        51,
        25,
        {27: 1.0, 30: 1.0, 33: 1.0, 36: 1.0, 39: 1.0, 42: 0.125, 45: 0.5, 48: 1.0},
    ),
    SparseUpdateScheme(
        "proxyless-w0.3",
        98,
        60,
        25,
        {36: 1.0, 39: 0.5, 42: 1.0, 45: 1.0, 48: 0.25, 51: 0.5, 54: 1.0, 57: 1.0},
    ),
)


def scheme_plan(
    graph: LayerGraph,
    scheme: SparseUpdateScheme,
    weight_norms: Mapping[str, Sequence[float]] | None = None,
) -> UpdatePlan:
    """The update plan of `scheme` on `graph`, a traced network of the scheme's name.

    `weight_norms` gives for each layer the norm of its weight's slice for each input channel
    (depthwise: for each channel); the largest are updated, the first among equals. Without it the
    first channels are: the cost does not depend on which. Convolutions after the scheme's own,
    such as a feature mix that the published network lacks, stay frozen.

    Raises `InputError` for a graph with fewer convolutions or without biases, and for norms that
    are missing or of the wrong length.
    """
    convolutions = [call for call, _ in convolutions_of(graph)]
    if len(convolutions) < scheme.convolutions:
        raise InputError(
            f"the {scheme.size_kb} kB scheme of {scheme.network} is for {scheme.convolutions} "
            f"convolutions; the model has {len(convolutions)}"
        )
    subsets = []
    for position, ratio in scheme.ratios.items():
        call = convolutions[position]
        channels = graph.shapes(call).inputs[0][1]
        if count := int(channels * ratio):
            subsets.append(_subset(graph, call, _largest(call, channels, weight_norms)[:count]))
    tail = convolutions[scheme.convolutions - scheme.biases : scheme.convolutions]
    plan = UpdatePlan(tuple(subsets), frozenset(_layer(call) for call in tail))
    plan.check(graph)
    return plan


def convolutions_of(graph: LayerGraph) -> list[tuple[Call, Convolution]]:
    """The convolutions that schemes number, in the order of calls."""
    return [(call, call.operator) for call in graph.calls if isinstance(call.operator, Convolution)]


def input_channel_norms(
    graph: LayerGraph, weights: Mapping[str, NDArray[np.floating[Any]]]
) -> dict[str, list[float]]:
    """The `weight_norms` of `scheme_plan`: L2 norms of convolution weights by input channel.

    `weights` maps parameter names to arrays `[C_out, C_in/groups, *kernel]`; of a depthwise weight
    each channel is one slice. Raises `InputError` for a weight that is missing.
    """
    norms = {}
    for call, operator in convolutions_of(graph):
        assert call.weight is not None
        if call.weight.name not in weights:
            raise InputError(f"the weight {call.weight.name!r} is missing")
        out, channels, *kernel = call.weight.shape
        groups = operator.groups
        weight = weights[call.weight.name].astype(np.float64)
        grouped = weight.reshape(groups, out // groups, channels, prod(kernel))
        norms[_layer(call)] = np.sqrt(np.square(grouped).sum((1, 3))).ravel().tolist()
    return norms


def _layer(call: Call) -> str:
    assert call.layer is not None
    return call.layer


def _subset(graph: LayerGraph, call: Call, channels: Sequence[int]) -> ChannelSubset:
    depthwise = not graph.channels(_layer(call), "input")
    return ChannelSubset(_layer(call), "output" if depthwise else "input", tuple(channels))


def _largest(
    call: Call, channels: int, weight_norms: Mapping[str, Sequence[float]] | None
) -> list[int]:
    if weight_norms is None:
        return list(range(channels))
    norms = weight_norms.get(_layer(call), ())
    if len(norms) != channels:
        raise InputError(
            f"layer {_layer(call)!r} has {channels} input channels; {len(norms)} norms were given"
        )
    return sorted(range(channels), key=lambda channel: (-norms[channel], channel))
