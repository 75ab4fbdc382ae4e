"""Computing a layer graph in PyTorch, differentiable by autograd."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from costsim.base.errors import InputError
from costsim.ir.graph import Call, LayerGraph, Parameter
from costsim.ir.operators import (
    ELU,
    GELU,
    AdaptiveAveragePool,
    Add,
    AveragePool,
    BatchNorm,
    Clamp,
    Concatenate,
    Constant,
    Convolution,
    Expand,
    GroupNorm,
    HardSigmoid,
    HardSwish,
    LayerNorm,
    LeakyReLU,
    Linear,
    LogSoftmax,
    MatMul,
    MaxPool,
    Mean,
    Multiply,
    Pad,
    Permute,
    ReLU,
    Reshape,
    Scale,
    Sigmoid,
    SiLU,
    Slice,
    Softmax,
    Subtract,
    Tanh,
)
from costsim.ir.operators.activation import LogSigmoid, Mish, Softplus
from costsim.ir.operators.convolution import DynamicConvolution, TransposedConvolution
from costsim.ir.operators.elementwise import Divide, Larger, Where
from costsim.ir.operators.function import (
    Absolute,
    Exp,
    Log,
    Power,
    Reciprocal,
    ReciprocalSquareRoot,
    SquareRoot,
)
from costsim.ir.operators.pooling import Extremum, LogSumExp, Norm, Variance
from costsim.ir.operators.reading import Reading
from costsim.ir.operators.sampling import Embedding, Fold, Lookup, Resize, Unfold
from costsim.models.tokens import as_tokens
from costsim.run.execution.resizing import folded, resized


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


FORWARD: Reading[[Operands], Tensor] = Reading("forward function")
"""Every operator kind but `input`, which is the sample itself."""

CONVOLUTIONS: Mapping[int, Any] = MappingProxyType({1: F.conv1d, 2: F.conv2d, 3: F.conv3d})
"""By the number of spatial dimensions."""

TRANSPOSED_CONVOLUTIONS: Mapping[int, Any] = MappingProxyType(
    {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
)

_MAX_POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE_POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_ADAPTIVE_POOLS = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


@FORWARD.of(Constant)
def _constant(o: Constant, t: Operands) -> Tensor:
    return t.bias if t.bias is not None else t.buffers[0]


@FORWARD.of(Convolution)
def _convolution(o: Convolution, t: Operands) -> Tensor:
    function: Any = CONVOLUTIONS[len(o.stride)]
    result: Tensor = function(t.x, t.weight, t.bias, o.stride, o.padding, o.dilation, o.groups)
    return result


@FORWARD.of(DynamicConvolution)
def _dynamic_convolution(o: DynamicConvolution, t: Operands) -> Tensor:
    x, weight = t.inputs
    function: Any = CONVOLUTIONS[len(o.stride)]
    result: Tensor = function(x, weight, None, o.stride, o.padding, o.dilation, o.groups)
    return result


def torch_weight(o: TransposedConvolution, weight: Tensor) -> Tensor:
    """The weight of a transposed convolution as torch has it, `[C_in, C_out/groups, *kernel]`."""
    return weight if o.groups > 1 else weight.transpose(0, 1)


@FORWARD.of(TransposedConvolution)
def _transposed_convolution(o: TransposedConvolution, t: Operands) -> Tensor:
    assert t.weight is not None
    function: Any = TRANSPOSED_CONVOLUTIONS[len(o.stride)]
    weight = torch_weight(o, t.weight)
    result: Tensor = function(
        t.x, weight, t.bias, o.stride, o.padding, o.output_padding, o.groups, o.dilation
    )
    return result


@FORWARD.of(Linear)
def _linear(o: Linear, t: Operands) -> Tensor:
    assert t.weight is not None
    return F.linear(t.x, t.weight, t.bias)


@FORWARD.of(MatMul)
def _matmul(o: MatMul, t: Operands) -> Tensor:
    left, right = t.inputs
    product = left @ (right.transpose(-2, -1) if o.transpose_b else right)
    return product if o.scale == 1.0 else product * o.scale


@FORWARD.of(BatchNorm)
def _batch_norm(o: BatchNorm, t: Operands) -> Tensor:
    mean, variance = t.buffers
    return F.batch_norm(t.x, mean, variance, t.weight, t.bias, training=False, eps=o.eps)


@FORWARD.of(LayerNorm)
def _layer_norm(o: LayerNorm, t: Operands) -> Tensor:
    return F.layer_norm(t.x, t.x.shape[-o.dimensions :], t.weight, t.bias, o.eps)


@FORWARD.of(GroupNorm)
def _group_norm(o: GroupNorm, t: Operands) -> Tensor:
    return F.group_norm(t.x, o.groups, t.weight, t.bias, o.eps)


@FORWARD.of(Clamp)
def _clamp(o: Clamp, t: Operands) -> Tensor:
    if o.gradient_at_bounds:
        return torch.clamp(t.x, o.minimum, o.maximum)
    return F.hardtanh(t.x, o.minimum, o.maximum)


@FORWARD.of(Scale)
def _scale(o: Scale, t: Operands) -> Tensor:
    scaled = t.x if o.factor == 1.0 else t.x * o.factor
    return scaled if o.offset == 0.0 else scaled + o.offset


@FORWARD.of(MaxPool)
def _max_pool(o: MaxPool, t: Operands) -> Tensor:
    function: Any = _MAX_POOLS[len(o.kernel)]
    result: Tensor = function(t.x, o.kernel, o.stride, o.padding, o.dilation, o.ceil_mode)
    return result


@FORWARD.of(AveragePool)
def _average_pool(o: AveragePool, t: Operands) -> Tensor:
    function: Any = _AVERAGE_POOLS[len(o.kernel)]
    result: Tensor = function(t.x, o.kernel, o.stride, o.padding, o.ceil_mode, o.count_padding)
    return result


@FORWARD.of(AdaptiveAveragePool)
def _adaptive_average_pool(o: AdaptiveAveragePool, t: Operands) -> Tensor:
    function: Any = _ADAPTIVE_POOLS[len(o.output)]
    result: Tensor = function(t.x, o.output)
    return result


@FORWARD.of(Where)
def _where(o: Where, t: Operands) -> Tensor:
    return torch.where(t.buffers[0] > 0, t.inputs[0], t.inputs[1])


@FORWARD.of(Lookup)
def _lookup(o: Lookup, t: Operands) -> Tensor:
    return t.x.index_select(o.dimension, torch.tensor(o.places, device=t.x.device))


@FORWARD.of(Embedding)
def _embedding(o: Embedding, t: Operands) -> Tensor:
    table, tokens = t.inputs
    return F.embedding(as_tokens(tokens, len(table)), table, o.padding)


@FORWARD.of(Slice)
def _slice(o: Slice, t: Operands) -> Tensor:
    where = (slice(None),) * o.dimension
    return t.x[(*where, slice(o.start, o.stop, o.step))]


@FORWARD.of(Pad)
def _pad(o: Pad, t: Operands) -> Tensor:
    # torch lists borders from the last dimension to the first.
    borders = [size for pair in reversed(o.padding) for size in pair]
    return F.pad(t.x, borders, value=o.value)


FORWARD.of(ReLU)(lambda _o, t: F.relu(t.x))
FORWARD.of(LeakyReLU)(lambda o, t: F.leaky_relu(t.x, o.negative_slope))
FORWARD.of(HardSigmoid)(lambda _o, t: F.hardsigmoid(t.x))
FORWARD.of(HardSwish)(lambda _o, t: F.hardswish(t.x))
FORWARD.of(GELU)(lambda o, t: F.gelu(t.x, approximate=o.approximate))
FORWARD.of(SiLU)(lambda _o, t: F.silu(t.x))
FORWARD.of(ELU)(lambda o, t: F.elu(t.x, o.alpha))
FORWARD.of(Softplus)(lambda o, t: F.softplus(t.x, o.beta, o.threshold))
FORWARD.of(Mish)(lambda _o, t: F.mish(t.x))
FORWARD.of(LogSigmoid)(lambda _o, t: F.logsigmoid(t.x))
FORWARD.of(Exp)(lambda _o, t: torch.exp(t.x))
FORWARD.of(Log)(lambda _o, t: torch.log(t.x))
FORWARD.of(SquareRoot)(lambda _o, t: torch.sqrt(t.x))
FORWARD.of(ReciprocalSquareRoot)(lambda _o, t: torch.rsqrt(t.x))
FORWARD.of(Reciprocal)(lambda _o, t: torch.reciprocal(t.x))
FORWARD.of(Absolute)(lambda _o, t: torch.abs(t.x))
FORWARD.of(Power)(lambda o, t: torch.pow(t.x, o.exponent))
FORWARD.of(Sigmoid)(lambda _o, t: torch.sigmoid(t.x))
FORWARD.of(Tanh)(lambda _o, t: torch.tanh(t.x))
FORWARD.of(Softmax)(lambda o, t: torch.softmax(t.x, o.dimension))
FORWARD.of(LogSoftmax)(lambda o, t: torch.log_softmax(t.x, o.dimension))
FORWARD.of(Add)(lambda _o, t: t.inputs[0] + t.inputs[1])
FORWARD.of(Subtract)(lambda _o, t: t.inputs[0] - t.inputs[1])
FORWARD.of(Multiply)(lambda _o, t: t.inputs[0] * t.inputs[1])
FORWARD.of(Divide)(lambda _o, t: t.inputs[0] / t.inputs[1])
FORWARD.of(Mean)(lambda o, t: t.x.mean(o.dimensions, keepdim=o.keep_dimensions))
FORWARD.of(Norm)(
    lambda o, t: torch.linalg.vector_norm(t.x, 2, o.dimensions, keepdim=o.keep_dimensions)
)
FORWARD.of(Variance)(
    lambda o, t: torch.var(t.x, o.dimensions, correction=o.correction, keepdim=o.keep_dimensions)
)
FORWARD.of(Extremum)(
    lambda o, t: (torch.amin if o.smallest else torch.amax)(
        t.x, o.dimensions, keepdim=o.keep_dimensions
    )
)
FORWARD.of(LogSumExp)(lambda o, t: torch.logsumexp(t.x, o.dimensions, keepdim=o.keep_dimensions))
FORWARD.of(Larger)(lambda o, t: (torch.minimum if o.smallest else torch.maximum)(*t.inputs))
FORWARD.of(Resize)(lambda o, t: resized(o, t.x))
FORWARD.of(Unfold)(lambda o, t: F.unfold(t.x, o.kernel, o.dilation, o.padding, o.stride))
FORWARD.of(Fold)(lambda o, t: folded(o, t.x, o.size))
FORWARD.of(Reshape)(lambda o, t: t.x.reshape(o.shape))
FORWARD.of(Permute)(lambda o, t: t.x.permute(o.dimensions))
FORWARD.of(Concatenate)(lambda o, t: torch.cat(t.inputs, o.dimension))
FORWARD.of(Expand)(lambda o, t: t.x.expand(o.shape))


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
    if unknown := [name for name in keep if name not in graph]:
        raise InputError(f"call {unknown[0]!r} is not in the layer graph")
    if missing := [p.name for p in graph.parameters if p.name not in tensors]:
        raise InputError(f"tensor {missing[0]!r} of the layer graph is missing")
    last_use = {name: call.name for call in graph.calls for name in call.inputs}
    values: dict[str, Tensor] = {}
    kept: dict[str, Tensor] = {}
    for call in graph.calls:
        if call.name == graph.input:
            values[call.name] = x
        else:
            compute = FORWARD[call.operator]
            values[call.name] = compute(operands(call, values, tensors))
        if call.name in keep:
            kept[call.name] = values[call.name]
        for name in set(call.inputs):
            if last_use[name] == call.name and name != graph.output:
                del values[name]
    return values[graph.output], kept
