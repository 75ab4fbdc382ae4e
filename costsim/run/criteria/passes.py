"""Forward and backward passes over the samples of a request."""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from costsim.base.errors import InputError
from costsim.ir.graph import LayerGraph
from costsim.ir.operators import UpdateKind
from costsim.run.criteria.base import Request, Target
from costsim.run.execution.forward import evaluate


@dataclass(frozen=True, eq=False)
class Pass:
    """One batch after its forward pass, ready to be differentiated."""

    values: Mapping[str, Tensor]
    loss: Tensor


def checked_tensors(request: Request) -> dict[str, Tensor]:
    """The model's tensors without gradient; raises `InputError` for one missing or not finite."""
    tensors = {}
    for call in request.graph.calls:
        for parameter in (call.weight, call.bias, *call.buffers):
            if parameter is None or parameter.name in tensors:
                continue
            where = f"layer {call.layer or call.name!r}: {parameter.name}"
            tensor = request.tensors.get(parameter.name)
            if tensor is None:
                raise InputError(f"{where} is missing from the model's tensors")
            if tuple(tensor.shape) != parameter.shape:
                raise InputError(f"{where} is {tuple(tensor.shape)}; {parameter.shape} is needed")
            if not bool(torch.isfinite(tensor).all()):
                raise InputError(f"{where} has values that are not finite")
            tensors[parameter.name] = tensor.detach()
    return tensors


def passes(
    request: Request, tensors: Mapping[str, Tensor], keep: Collection[str], what: str
) -> Iterator[Pass]:
    """Run the samples forward, as many at a time as the graph was traced for, keeping `keep`.

    The last pass is filled up with copies whose loss is not taken, so that their gradients are
    zero. Autograd records nothing before the first call that reads a tensor which requires
    gradient: a frozen prefix costs no memory. What samples share in the loss is computed first.
    """
    graph, loss = request.graph, request.loss
    images, labels = _samples(request, tensors)
    count, batch = len(images), graph.batch
    parts = [_filled(images[start : start + batch], batch) for start in range(0, count, batch)]
    context = None
    if len(parts) > 1:
        with torch.no_grad():
            outputs = torch.cat([_evaluate(graph, tensors, part, ())[0] for part in parts])
            context = loss.context(outputs[:count], labels)
    for index, part in enumerate(parts):
        its_labels = labels[index * batch : (index + 1) * batch]
        with torch.enable_grad():
            output, values = _evaluate(graph, tensors, part, keep)
            its_output = output[: len(its_labels)]
            if len(parts) == 1:
                context = loss.context(its_output.detach(), labels)
            total = loss(its_output, its_labels, context)
        if not _finite(total):
            raise InputError("the loss is not finite")
        if not total.requires_grad:
            raise InputError("the model's output depends on none of the inspected layers")
        yield Pass(values, total)
        if request.progress is not None:
            request.progress(what, index * batch + len(its_labels), count)


def _filled(images: Tensor, batch: int) -> Tensor:
    return torch.cat([images, images[:1].expand(batch - len(images), *images.shape[1:])])


def _evaluate(
    graph: LayerGraph, tensors: Mapping[str, Tensor], images: Tensor, keep: Collection[str]
) -> tuple[Tensor, Mapping[str, Tensor]]:
    output, values = evaluate(graph, tensors, images, keep=keep)
    if output.ndim < 2 or len(output) != graph.batch:
        raise InputError(
            f"the model returns {tuple(output.shape)} for {graph.batch} samples; "
            "their dimension must come first, and another after it"
        )
    if not _finite(output, *values.values()):
        raise InputError(_first_not_finite(graph, tensors, images))
    return output, values


def parameter_gradients(request: Request, what: str) -> dict[Target, tuple[Tensor, Tensor]]:
    """Of each target its weight or bias, and the gradient of the summed loss, of one shape."""
    tensors = checked_tensors(request)
    owners, wanted = dict[str, str](), dict[str, Tensor]()
    for target in request.targets:
        name = request.parameter(target).name
        owners[name] = target[0]
        wanted[name] = tensors[name] = tensors[name].requires_grad_()
    totals = {name: torch.zeros_like(parameter) for name, parameter in wanted.items()}
    for a_pass in passes(request, tensors, (), what):
        gradients = torch.autograd.grad(a_pass.loss, [*wanted.values()], allow_unused=True)
        found = dict(zip(wanted, gradients, strict=True))
        for name in reversed(wanted):  # the order of the backward pass
            gradient = found[name]
            if gradient is not None:
                check_gradient(owners[name], gradient)
                totals[name] += gradient
    names = {target: request.parameter(target).name for target in request.targets}
    return {target: (wanted[name].detach(), totals[name]) for target, name in names.items()}


def by_channel(weight: Tensor, graph: LayerGraph, layer: str, axis: UpdateKind) -> Tensor:
    """A weight or a bias, or its gradient, as `[channels, elements]` along `axis`."""
    if axis == "output" or weight.ndim == 1:
        return weight.flatten(1) if weight.ndim > 1 else weight.unsqueeze(1)
    groups = graph[graph.layers[layer].calls[0]].operator.weight_groups
    # [groups, outputs a group, inputs a group, ...]: an input channel is read by its group alone
    outputs, inputs, *kernel = weight.shape
    grouped = weight.reshape(groups, outputs // groups, inputs, *kernel).transpose(1, 2)
    return grouped.reshape(groups * inputs, -1)


def check_gradient(layer: str, gradient: Tensor) -> None:
    """Raise `InputError` naming `layer` if its gradient is not finite."""
    if not _finite(gradient):
        raise InputError(f"layer {layer!r}: the gradient is not finite")


def _samples(request: Request, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    like = next(tensor for tensor in tensors.values() if tensor.is_floating_point())
    # a copy: what comes in may be read-only
    images = torch.tensor(_plain(request.images), dtype=like.dtype, device=like.device)
    labels = torch.tensor(_plain(request.labels), dtype=torch.int64, device=like.device)
    wanted = request.graph[request.graph.input].shape[1:]
    if tuple(images.shape[1:]) != wanted:
        raise InputError(f"the samples are {tuple(images.shape[1:])}; the model takes {wanted}")
    if not _finite(images):
        raise InputError("the samples have values that are not finite")
    if int(labels.min()) < 0:
        raise InputError(f"label {int(labels.min())}; labels are 0, 1, 2, ...")
    return images, labels


def _plain(values: object) -> object:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else values


def _finite(*tensors: Tensor) -> bool:
    # A finite sum has finite terms only, and is several times quicker; one that is not may have
    # overflowed.
    return all(
        math.isfinite(float(tensor.detach().sum())) or bool(torch.isfinite(tensor).all())
        for tensor in tensors
    )


def _first_not_finite(graph: LayerGraph, tensors: Mapping[str, Tensor], images: Tensor) -> str:
    with torch.no_grad():
        _, values = evaluate(graph, tensors, images, keep=[call.name for call in graph.calls])
    for call in graph.calls:
        if call.name in values and not _finite(values[call.name]):
            return f"layer {call.layer or call.name!r}: the activations are not finite"
    return "the activations are not finite"
