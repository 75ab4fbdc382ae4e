"""How the loss of each sample changes along each channel: one number a sample and a channel.

It is `t_n = Σ_d p_nd`, summed over all positions d and all calls of a layer, where p is a product
of the gradient at the layer's output (or of the gradient that it sends to its input) with whatever
the channel is moved along; of a bias it is `b Σ_d g_nd`, with b what the bias is moved along.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from costsim.base.errors import InputError
from costsim.ir.graph import Call, LayerGraph
from costsim.ir.operators import Input, UpdateKind
from costsim.ir.sample_axes import first_without_samples
from costsim.run.criteria.base import Request, Target
from costsim.run.criteria.passes import check_gradient, passes
from costsim.run.execution.forward import evaluate

Product: TypeAlias = Callable[[Call, UpdateKind, Mapping[str, Tensor], Tensor], Tensor]
"""Of a call, an axis (output or input), the values of a pass and the gradient of the call's output:
the summands p, of the shape of what the call writes (axis output) or reads (axis input)."""


def slopes(
    request: Request,
    tensors: Mapping[str, Tensor],
    product: Product,
    biases: Mapping[str, Tensor],
    *,
    reads: Collection[str],
    what: str,
) -> Iterator[Mapping[Target, Tensor]]:
    """`t` of every target in one pass after another, each `[batch, channels]` in double precision.

    `biases` has for each layer what its bias is moved along, `reads` the axes whose product asks
    for what the layer reads. Raises `InputError` as `passes` does, and where a value does not have
    the samples first.
    """
    graph = request.graph
    owner = {name: layer for layer in request.layers for name in graph.layers[layer].calls}
    calls = [call for call in graph.calls if call.name in owner]
    read = {
        call.inputs[0]
        for call in calls
        if any((owner[call.name], axis) in request.targets for axis in reads)
    }
    keep = {*owner, *read}
    _check_batch(graph, keep)
    for a_pass in passes(request, tensors, keep, what):
        gradients = torch.autograd.grad(
            a_pass.loss, [a_pass.values[call.name] for call in calls], allow_unused=True
        )
        found: dict[Target, Tensor] = {}
        # from the last call to the first: a gradient goes wrong where it is first computed
        for call, gradient in zip(reversed(calls), reversed(gradients), strict=True):
            if gradient is None:  # nothing of this call reaches the loss
                continue
            layer = owner[call.name]
            check_gradient(layer, gradient)
            shapes = graph.shapes(call)
            for axis in (axis for name, axis in request.targets if name == layer):
                if axis == "bias":
                    across = call.operator.channel_axis(shapes, "output")
                    slope = _over_positions(gradient, graph.batch, across) * biases[layer].double()
                else:
                    across = call.operator.channel_axis(shapes, axis)
                    summands = product(call, axis, a_pass.values, gradient)
                    slope = _over_positions(summands, graph.batch, across)
                earlier = found.get((layer, axis))
                found[layer, axis] = slope if earlier is None else earlier + slope
        yield found


def channel_count(request: Request, target: Target) -> int:
    """Channels of a target; of a bias its elements."""
    layer, axis = target
    if axis == "bias":
        return request.parameter(target).size
    return request.graph.selectable_channels(layer, axis)


def input_gradient(
    call: Call, tensors: Mapping[str, Tensor], value: Tensor, gradient: Tensor
) -> Tensor:
    """The gradient that `call` alone sends to its input, from the gradient of its output."""
    shape = tuple(value.shape)
    alone = LayerGraph((Call(call.inputs[0], Input(shape), (), shape), call))
    with torch.enable_grad():
        leaf = value.clone().requires_grad_()
        output, _ = evaluate(alone, tensors, leaf)
    (result,) = torch.autograd.grad(output, leaf, gradient)
    return result


def _check_batch(graph: LayerGraph, names: Iterable[str]) -> None:
    name = first_without_samples(graph, names)
    if name is not None:
        call = graph[name]
        raise InputError(
            f"layer {call.layer or name!r}: a value of shape {call.shape} does not have the "
            f"{graph.batch} samples first; score with a graph traced for one sample"
        )


def _over_positions(summands: Tensor, batch: int, channel_axis: int) -> Tensor:
    """The sum over all but sample and channel, `[batch, channels]`, in double precision."""
    channels_last = summands.movedim(channel_axis, -1)
    return channels_last.reshape(batch, -1, channels_last.shape[-1]).double().sum(1)
