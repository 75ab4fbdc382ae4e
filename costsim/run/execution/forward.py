"""Computing a layer graph in PyTorch, differentiable by autograd."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from costsim.base.errors import InputError
from costsim.ir.graph import Call, LayerGraph, Parameter


@dataclass(frozen=True, slots=True)
class Operands:
    """The tensors one call works on."""

    inputs: tuple[Tensor, ...]
    weight: Tensor | None = None
    bias: Tensor | None = None
    buffers: tuple[Tensor, ...] = ()

    @property
    def x(self) -> Tensor:
        """The first input."""
        return self.inputs[0]


ForwardFunction: TypeAlias = Callable[[Any, Operands], Tensor]
"""(the call's operator, its tensors) to the call's output."""

CONVOLUTIONS: Mapping[int, Any] = MappingProxyType({1: F.conv1d, 2: F.conv2d, 3: F.conv3d})
"""By the number of spatial dimensions."""

_MAX_POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE_POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_ADAPTIVE_POOLS = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


def _constant(o: Any, t: Operands) -> Tensor:
    return t.bias if t.bias is not None else t.buffers[0]


def _convolution(o: Any, t: Operands) -> Tensor:
    function: Any = CONVOLUTIONS[len(o.stride)]
    result: Tensor = function(t.x, t.weight, t.bias, o.stride, o.padding, o.dilation, o.groups)
    return result


def _linear(o: Any, t: Operands) -> Tensor:
    assert t.weight is not None
    return F.linear(t.x, t.weight, t.bias)


def _matmul(o: Any, t: Operands) -> Tensor:
    left, right = t.inputs
    product = left @ (right.transpose(-2, -1) if o.transpose_b else right)
    return product if o.scale == 1.0 else product * o.scale


def _batch_norm(o: Any, t: Operands) -> Tensor:
    mean, variance = t.buffers
    return F.batch_norm(t.x, mean, variance, t.weight, t.bias, training=False, eps=o.eps)


def _layer_norm(o: Any, t: Operands) -> Tensor:
    return F.layer_norm(t.x, t.x.shape[-o.dimensions :], t.weight, t.bias, o.eps)


def _group_norm(o: Any, t: Operands) -> Tensor:
    return F.group_norm(t.x, o.groups, t.weight, t.bias, o.eps)


def _clamp(o: Any, t: Operands) -> Tensor:
    if o.gradient_at_bounds:
        return torch.clamp(t.x, o.minimum, o.maximum)
    return F.hardtanh(t.x, o.minimum, o.maximum)


def _scale(o: Any, t: Operands) -> Tensor:
    scaled = t.x if o.factor == 1.0 else t.x * o.factor
    return scaled if o.offset == 0.0 else scaled + o.offset


def _max_pool(o: Any, t: Operands) -> Tensor:
    function: Any = _MAX_POOLS[len(o.kernel)]
    result: Tensor = function(t.x, o.kernel, o.stride, o.padding, o.dilation, o.ceil_mode)
    return result


def _average_pool(o: Any, t: Operands) -> Tensor:
    function: Any = _AVERAGE_POOLS[len(o.kernel)]
    result: Tensor = function(t.x, o.kernel, o.stride, o.padding, o.ceil_mode, o.count_padding)
    return result


def _adaptive_average_pool(o: Any, t: Operands) -> Tensor:
    function: Any = _ADAPTIVE_POOLS[len(o.output)]
    result: Tensor = function(t.x, o.output)
    return result


def _slice(o: Any, t: Operands) -> Tensor:
    where = (slice(None),) * o.dimension
    return t.x[(*where, slice(o.start, o.stop, o.step))]


def _pad(o: Any, t: Operands) -> Tensor:
    # torch lists borders from the last dimension to the first.
    borders = [size for pair in reversed(o.padding) for size in pair]
    return F.pad(t.x, borders, value=o.value)


FORWARD: Mapping[str, ForwardFunction] = MappingProxyType(
    {
        "constant": _constant,
        "convolution": _convolution,
        "linear": _linear,
        "matmul": _matmul,
        "batch_norm": _batch_norm,
        "layer_norm": _layer_norm,
        "group_norm": _group_norm,
        "relu": lambda o, t: F.relu(t.x),
        "leaky_relu": lambda o, t: F.leaky_relu(t.x, o.negative_slope),
        "clamp": _clamp,
        "hard_sigmoid": lambda o, t: F.hardsigmoid(t.x),
        "hard_swish": lambda o, t: F.hardswish(t.x),
        "gelu": lambda o, t: F.gelu(t.x, approximate=o.approximate),
        "silu": lambda o, t: F.silu(t.x),
        "elu": lambda o, t: F.elu(t.x, o.alpha),
        "sigmoid": lambda o, t: torch.sigmoid(t.x),
        "tanh": lambda o, t: torch.tanh(t.x),
        "softmax": lambda o, t: torch.softmax(t.x, o.dimension),
        "log_softmax": lambda o, t: torch.log_softmax(t.x, o.dimension),
        "add": lambda o, t: t.inputs[0] + t.inputs[1],
        "subtract": lambda o, t: t.inputs[0] - t.inputs[1],
        "multiply": lambda o, t: t.inputs[0] * t.inputs[1],
        "scale": _scale,
        "max_pool": _max_pool,
        "average_pool": _average_pool,
        "adaptive_average_pool": _adaptive_average_pool,
        "mean": lambda o, t: t.x.mean(o.dimensions, keepdim=o.keep_dimensions),
        "reshape": lambda o, t: t.x.reshape(o.shape),
        "permute": lambda o, t: t.x.permute(o.dimensions),
        "slice": _slice,
        "concatenate": lambda o, t: torch.cat(t.inputs, o.dimension),
        "expand": lambda o, t: t.x.expand(o.shape),
        "pad": _pad,
    }
)
"""Every operator kind but `input`, which is the sample itself."""


def operands(call: Call, values: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Operands:
    """The tensors `call` works on: `values` by call name, the model's by parameter name."""

    def own(parameter: Parameter | None) -> Tensor | None:
        return None if parameter is None else tensors[parameter.name]

    return Operands(
        tuple(values[name] for name in call.inputs),
        own(call.weight),
        own(call.bias),
        tuple(tensors[buffer.name] for buffer in call.buffers),
    )


def evaluate(
    graph: LayerGraph, tensors: Mapping[str, Tensor], x: Tensor, keep: Collection[str] = ()
) -> tuple[Tensor, dict[str, Tensor]]:
    """The output of `graph` for the batch `x`, and the outputs of the calls named in `keep`.

    `tensors` holds the parameters and buffers by name (`costsim.models.tracing.Traced.tensors`);
    `x` has the shape the graph was traced for. Values are dropped after their last use, unless
    autograd holds on to them. Raises `InputError` for another shape, an unknown name or a missing
    tensor.
    """
    if tuple(x.shape) != graph[graph.input].shape:
        raise InputError(
            f"the input has shape {tuple(x.shape)}; "
            f"the graph was traced for {graph[graph.input].shape}"
        )
    if unknown := [name for name in keep if name not in graph.digraph]:
        raise InputError(f"call {unknown[0]!r} is not in the layer graph")
    if missing := [p.name for p in graph.parameters if p.name not in tensors]:
        raise InputError(f"tensor {missing[0]!r} of the layer graph is missing")
    last_use = {name: call.name for call in graph.calls for name in call.inputs}
    values: dict[str, Tensor] = {}
    kept: dict[str, Tensor] = {}
    for call in graph.calls:
        if call.operator.kind == "input":
            values[call.name] = x
        else:
            compute = FORWARD[call.operator.kind]
            values[call.name] = compute(call.operator, operands(call, values, tensors))
        if call.name in keep:
            kept[call.name] = values[call.name]
        for name in set(call.inputs):
            if last_use[name] == call.name and name != graph.output:
                del values[name]
    return values[graph.output], kept
