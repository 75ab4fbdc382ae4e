"""Fisher information of activations: how much the loss of each sample hangs on a channel.

A channel of a layer multiplied by a gain `m` that stands at 1 changes the loss `L_n` of sample
n by `dL_n/dm = Σ_d a_nd g_nd`, with `a` the channel's activations, `g` their gradients and `d`
running over all positions (and over all calls of a layer that is used more than once). The
empirical Fisher information of the gain, halved, is the score:

    Δ = 1/(2N) Σ_n (Σ_d a_nd g_nd)²

Theis et al., "Faster gaze prediction with dense networks and Fisher pruning", 2018; TinyTrain,
ICML 2024. The activation is the layer's own output, before any normalisation or non-linearity
that follows as a call of its own. An element b of a bias is scored by the same formula with a gain
on it alone, `dL_n/dm = b Σ_d g_nd`: one that is 0 scores 0, however large its gradient.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from costsim.criteria.base import Criterion, Request, Target
from costsim.errors import InputError
from costsim.graph import Call, LayerGraph
from costsim.operators import Input, UpdateKind

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Fisher(Criterion):
    """Fisher scores from one backward pass over all samples, the graph's batch at a time.

    Along the input axis the same formula is applied to what the layer reads, with the gradient
    that this layer alone sends back: the gain is on the weights of one input channel, and other
    readers of the same value do not count.

    A graph traced for one sample serves every model; one traced for more must keep the sample
    as the first dimension of what the inspected layers read and compute.
    """

    name: ClassVar[str] = "fisher"

    def channel_scores(self, request: Request) -> Mapping[Target, NDArray[np.float64]]:
        """`Δ` of every channel of every target."""
        import torch

        from costsim.criteria.passes import check_gradient, checked_tensors, passes

        graph = request.graph
        tensors = checked_tensors(request)
        for layer in request.layers:
            # a value is differentiable once anything that it is computed from is
            source = graph.layers[layer].bias or graph.layers[layer].weight
            assert source is not None
            tensors[source.name] = tensors[source.name].requires_grad_()
        owner = {name: layer for layer in request.layers for name in graph.layers[layer].calls}
        calls = [call for call in graph.calls if call.name in owner]
        read = {call.inputs[0] for call in calls if (owner[call.name], "input") in request.targets}
        keep = {*owner, *read}
        check_batch(graph, keep)

        totals = {
            target: torch.zeros(channels(request, target), dtype=torch.float64)
            for target in request.targets
        }
        for a_pass in passes(request, tensors, keep, self.name):
            gradients = torch.autograd.grad(
                a_pass.loss, [a_pass.values[call.name] for call in calls], allow_unused=True
            )
            derivatives: dict[Target, Tensor] = {}
            # from the last call to the first: a gradient goes wrong where it is first computed
            for call, gradient in zip(reversed(calls), reversed(gradients), strict=True):
                if gradient is None:  # nothing of this call reaches the loss
                    continue
                layer = owner[call.name]
                check_gradient(layer, gradient)
                shapes, axes = graph.shapes(call), scored_axes(request, layer)
                for axis in axes:
                    if axis == "bias":
                        across = call.operator.channel_axis(shapes, "output")
                        bias = tensors[request.parameter((layer, axis)).name].detach()
                        found = over_positions(gradient, graph.batch, across) * bias.double()
                    else:
                        value = a_pass.values[call.name if axis == "output" else call.inputs[0]]
                        value = value.detach()
                        g = gradient
                        if axis == "input":
                            g = input_gradient(call, tensors, value, gradient)
                        across = call.operator.channel_axis(shapes, axis)
                        found = over_positions(value * g, graph.batch, across)
                    earlier = derivatives.get((layer, axis))
                    derivatives[layer, axis] = found if earlier is None else earlier + found
            for target, derivative in derivatives.items():
                totals[target] += derivative.square().sum(0).cpu()
        samples = len(request.images)
        return {target: (total / (2 * samples)).numpy() for target, total in totals.items()}


def scored_axes(request: Request, layer: str) -> tuple[UpdateKind, ...]:
    """The axes along which a layer is scored."""
    return tuple(axis for name, axis in request.targets if name == layer)


def channels(request: Request, target: Target) -> int:
    """Channels of a target; of a bias its elements."""
    layer, axis = target
    if axis == "bias":
        return request.parameter(target).size
    return request.graph.selectable_channels(layer, axis)


def check_batch(graph: LayerGraph, names: Iterable[str]) -> None:
    """Raise `InputError` where a value does not have the samples as its first dimension."""
    for name in names:
        call = graph[name]
        if graph.batch > 1 and call.shape[0] != graph.batch:
            raise InputError(
                f"layer {call.layer or name!r}: a value of shape {call.shape} does not have the "
                f"{graph.batch} samples first; score with a graph traced for one sample"
            )


def over_positions(product: "Tensor", batch: int, channel_axis: int) -> "Tensor":
    """The sum over all but sample and channel, `[batch, channels]`, in double precision."""
    channels_last = product.movedim(channel_axis, -1)
    return channels_last.reshape(batch, -1, channels_last.shape[-1]).double().sum(1)


def input_gradient(
    call: Call, tensors: "Mapping[str, Tensor]", value: "Tensor", gradient: "Tensor"
) -> "Tensor":
    """The gradient that `call` alone sends to its input, from the gradient of its output."""
    import torch

    from costsim.execution.forward import evaluate

    shape = tuple(value.shape)
    alone = LayerGraph((Call(call.inputs[0], Input(shape), (), shape), call))
    with torch.enable_grad():
        leaf = value.clone().requires_grad_()
        output, _ = evaluate(alone, tensors, leaf)
    (result,) = torch.autograd.grad(output, leaf, gradient)
    return result
