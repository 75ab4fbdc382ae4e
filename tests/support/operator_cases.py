"""One small graph for every operator kind, in every way it can be used, and what torch calls it.

A new operator is tested by its entries here: what goes over the tables compares gradients with
autograd, bytes and multiply-accumulates with what is priced, what tracing makes of torch's own
functions, and what autograd keeps of them.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import torch
from graphs import GraphBuilder
from running import with_statistics
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from costsim.ir.graph import LayerGraph
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
    Operator,
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
from costsim.ir.operators.sampling import Embedding, Fold, Lookup, Resize, Unfold

SPATIAL = (2, 4, 5, 6)
TOKENS = (2, 5, 8)
UNARY: Mapping[str, tuple[Operator, tuple[int, ...]]] = {
    "relu": (ReLU(), SPATIAL),
    "leaky_relu": (LeakyReLU(0.1), SPATIAL),
    "relu6": (Clamp(0.0, 6.0, False), SPATIAL),
    "hard_tanh": (Clamp(-0.5, 0.5, False), SPATIAL),
    "clamp": (Clamp(-0.5, 0.5, True), SPATIAL),
    "hard_sigmoid": (HardSigmoid(), SPATIAL),
    "hard_swish": (HardSwish(), SPATIAL),
    "gelu": (GELU("none"), SPATIAL),
    "gelu_tanh": (GELU("tanh"), TOKENS),
    "silu": (SiLU(), SPATIAL),
    "elu": (ELU(0.7), SPATIAL),
    "softplus": (Softplus(), SPATIAL),
    "softplus_steep": (Softplus(8.0, 12.0), TOKENS),  # above its threshold for some
    "mish": (Mish(), SPATIAL),
    "log_sigmoid": (LogSigmoid(), SPATIAL),
    "exp": (Exp(), SPATIAL),
    "log": (Log(), SPATIAL),
    "square_root": (SquareRoot(), SPATIAL),
    "reciprocal_square_root": (ReciprocalSquareRoot(), SPATIAL),
    "reciprocal": (Reciprocal(), SPATIAL),
    "absolute": (Absolute(), SPATIAL),
    "power": (Power(0.75), SPATIAL),
    "power_below_zero": (Power(-1.5), TOKENS),
    "sigmoid": (Sigmoid(), SPATIAL),
    "tanh": (Tanh(), SPATIAL),
    "softmax": (Softmax(2), TOKENS),
    "softmax_of_channels": (Softmax(1), SPATIAL),
    "log_softmax": (LogSoftmax(2), TOKENS),
    "log_softmax_of_channels": (LogSoftmax(1), SPATIAL),
    "scale": (Scale(-1.5, 0.25), SPATIAL),
    "offset": (Scale(1.0, 0.25), SPATIAL),
    "nothing": (Scale(), SPATIAL),
    "max_pool": (MaxPool((3, 2), (2, 1), (1, 1), (1, 2)), SPATIAL),
    "max_pool_ceil": (MaxPool((2, 2), (2, 2), (0, 0), (1, 1), True), SPATIAL),
    "max_pool_1d": (MaxPool((3,), (2,), (1,), (1,)), TOKENS),
    "max_pool_3d": (MaxPool((2, 3, 2), (1, 2, 2), (1, 1, 1), (1, 1, 1)), (2, 3, 4, 5, 6)),
    "average_pool": (AveragePool((3, 2), (2, 1), (1, 1), False, False), SPATIAL),
    "average_pool_ceil": (AveragePool((2, 2), (2, 2), (0, 0), True), SPATIAL),
    "average_pool_1d": (AveragePool((3,), (2,), (1,)), TOKENS),
    "average_pool_3d": (AveragePool((2, 2, 2), (1, 2, 2), (0, 1, 0)), (2, 3, 4, 5, 6)),
    "adaptive_average_pool": (AdaptiveAveragePool((2, 3)), SPATIAL),
    "adaptive_average_pool_1d": (AdaptiveAveragePool((3,)), TOKENS),
    "adaptive_average_pool_3d": (AdaptiveAveragePool((2, 2, 4)), (2, 3, 4, 5, 6)),
    "mean": (Mean((2, 3)), SPATIAL),
    "mean_of_channels": (Mean((1,), True), SPATIAL),
    "norm": (Norm((2, 3)), SPATIAL),
    "norm_of_channels": (Norm((1,), True), SPATIAL),
    "variance": (Variance((2, 3)), SPATIAL),
    "variance_of_channels": (Variance((1,), True, 0.0), SPATIAL),
    "largest": (Extremum((2, 3)), SPATIAL),
    "smallest_of_channels": (Extremum((1,), True, smallest=True), SPATIAL),
    "log_sum_exp": (LogSumExp((2,)), TOKENS),
    "log_sum_exp_of_channels": (LogSumExp((1, 3), True), SPATIAL),
    "resize_bilinear": (Resize((9, 4), "linear"), SPATIAL),
    "resize_corners": (Resize((7, 11), "linear", True), SPATIAL),
    "resize_scaled": (Resize((8, 9), "linear", False, (1.7, 1.6)), SPATIAL),
    "resize_bicubic": (Resize((9, 4), "cubic"), SPATIAL),
    "resize_nearest": (Resize((7, 4), "nearest"), SPATIAL),
    "resize_nearest_exact": (Resize((7, 4), "nearest-exact"), SPATIAL),
    "resize_1d": (Resize((13,), "linear"), TOKENS),
    "resize_3d": (Resize((2, 5, 7), "linear"), (2, 3, 4, 5, 6)),
    "lookup": (Lookup(1, (3, 0, 0, 2, 3)), SPATIAL),
    "lookup_of_samples": (Lookup(0, (1, 1, 0)), TOKENS),
    "unfold": (Unfold((3, 2), (2, 1), (1, 0), (1, 2)), SPATIAL),
    "fold": (Fold((2, 2), (2, 1), (1, 0), (1, 2), (2, 6)), (2, 8, 8)),
    "reshape": (Reshape((2, 120)), SPATIAL),
    "permute": (Permute((0, 3, 1, 2)), SPATIAL),
    "permute_nothing": (Permute((0, 1, 2)), TOKENS),
    "slice": (Slice(1, 1, 4, 2), SPATIAL),
    "slice_of_samples": (Slice(0, 0, 1), SPATIAL),
    "expand": (Expand((2, 4, 5, 6)), (2, 1, 5, 1)),
    "expand_rank": (Expand((3, 2, 5, 8)), TOKENS),
    "expand_nothing": (Expand(TOKENS), TOKENS),
    "pad": (Pad(((0, 0), (1, 0), (2, 1), (0, 3)), 0.5), SPATIAL),
    "pad_nothing": (Pad(((0, 0), (0, 0), (0, 0))), TOKENS),
    "crop": (Pad(((0, 0), (0, 0), (-1, 0), (0, -2))), SPATIAL),
}
POSITIVE = frozenset(
    (
        "log", "square_root", "reciprocal_square_root", "reciprocal", "power", "power_below_zero",
        "divide", "divide_broadcast", "divide_by_few",
    )
)  # fmt: skip
"""Cases whose inputs are kept off zero and what is below."""
BINARY: Mapping[str, tuple[Operator, tuple[int, ...], tuple[int, ...]]] = {
    "add": (Add(), SPATIAL, SPATIAL),
    "add_broadcast": (Add(), (2, 1, 5, 6), (2, 4, 1, 1)),
    "add_vector": (Add(), (2, 4, 5, 6), (6,)),
    "subtract": (Subtract(), SPATIAL, SPATIAL),
    "subtract_broadcast": (Subtract(), (2, 4, 1, 6), (4, 5, 1)),
    "multiply": (Multiply(), SPATIAL, SPATIAL),
    "multiply_broadcast": (Multiply(), (2, 4, 1, 1), SPATIAL),
    "multiply_gate": (Multiply(), SPATIAL, (2, 4, 1, 1)),
    "divide": (Divide(), SPATIAL, SPATIAL),
    "divide_broadcast": (Divide(), (2, 4, 1, 6), (4, 5, 1)),
    "divide_by_few": (Divide(), SPATIAL, (2, 4, 1, 1)),
    "dynamic_convolution": (
        DynamicConvolution((2, 1), (1, 2), (1, 2), 2),
        SPATIAL,
        (6, 2, 3, 2),
    ),
    "dynamic_depthwise": (DynamicConvolution((1, 1), (1, 1), (1, 1), 4), SPATIAL, (4, 1, 3, 3)),
    "larger": (Larger(), SPATIAL, SPATIAL),
    "smaller_broadcast": (Larger(smallest=True), (2, 4, 1, 6), (4, 5, 1)),
    "where": (Where((5, 6)), SPATIAL, SPATIAL),
    "where_broadcast": (Where((2, 4, 5, 6)), (2, 4, 1, 6), ()),
    "embedding": (Embedding(), (6, 4), (6,)),
    "embedding_padded": (Embedding(padding=1), (6, 4), (6,)),
    "concatenate": (Concatenate(1), SPATIAL, (2, 3, 5, 6)),
    "concatenate_samples": (Concatenate(0), TOKENS, (1, 5, 8)),
    "matmul": (MatMul(), (2, 3, 4, 5), (2, 3, 5, 6)),
    "matmul_transposed": (MatMul(True, 0.5), (2, 3, 4, 5), (2, 3, 6, 5)),
    "matmul_broadcast": (MatMul(False, 2.0), (2, 3, 4, 5), (5, 6)),
    "matmul_broadcast_left": (MatMul(True), (1, 4, 5), (2, 6, 5)),
}
WEIGHTED: Mapping[str, tuple[Operator, tuple[int, ...], tuple[int, ...]]] = {
    "convolution": (Convolution((2, 1), (1, 2), (1, 2), 1), SPATIAL, (6, 4, 3, 2)),
    "convolution_1d": (Convolution((2,), (1,), (1,), 1), (2, 4, 9), (6, 4, 3)),
    "convolution_3d": (
        Convolution((1, 2, 1), (0, 1, 1), (1, 1, 1), 1),
        (2, 3, 4, 5, 6),
        (4, 3, 2, 3, 3),
    ),
    "pointwise": (Convolution((1, 1), (0, 0), (1, 1), 1), SPATIAL, (6, 4, 1, 1)),
    "pointwise_strided": (Convolution((2, 2), (0, 0), (1, 1), 1), SPATIAL, (6, 4, 1, 1)),
    "depthwise": (Convolution((2, 2), (2, 2), (1, 1), 4), SPATIAL, (4, 1, 5, 5)),
    "depthwise_of_one": (Convolution((1, 1), (1, 1), (1, 1), 1), (2, 1, 5, 6), (1, 1, 3, 3)),
    "multiplied_depthwise": (Convolution((1, 1), (1, 1), (1, 1), 4), SPATIAL, (8, 1, 3, 3)),
    "grouped": (Convolution((1, 2), (1, 0), (1, 1), 2), SPATIAL, (6, 2, 3, 3)),
    "transposed": (
        TransposedConvolution((2, 1), (1, 0), (1, 0), (1, 2)),
        SPATIAL,
        (6, 4, 3, 2),
    ),
    "transposed_1d": (TransposedConvolution((3,), (1,), (2,), (1,)), (2, 4, 5), (6, 4, 3)),
    "transposed_3d": (
        TransposedConvolution((1, 2, 2), (0, 1, 0), (0, 1, 0), (1, 1, 1)),
        (2, 3, 2, 3, 4),
        (4, 3, 2, 3, 2),
    ),
    "transposed_depthwise": (
        TransposedConvolution((2, 2), (1, 1), (0, 1), (1, 1), 4),
        SPATIAL,
        (4, 1, 3, 3),
    ),
    "linear": (Linear(), TOKENS, (7, 8)),
    "linear_flat": (Linear(), (4, 8), (7, 8)),
    "linear_spatial": (Linear(), SPATIAL, (3, 6)),
    "batch_norm": (BatchNorm(1e-3), SPATIAL, (4,)),
    "batch_norm_flat": (BatchNorm(1e-3), (5, 4), (4,)),
    "layer_norm": (LayerNorm(1, 1e-5), TOKENS, (8,)),
    "layer_norm_of_two": (LayerNorm(2, 1e-5), TOKENS, (5, 8)),
    "group_norm": (GroupNorm(2, 1e-5), SPATIAL, (4,)),
}


def constant(g: GraphBuilder, shape: tuple[int, ...]) -> str:
    """A trainable value of this shape: everything after it needs its gradient."""
    return g.add(Constant(shape), bias=True)


def case(name: str, *, alone: bool) -> LayerGraph:
    """The operator between trainable values; `alone`: it may write over what it reads."""
    g = GraphBuilder()
    if name in UNARY:
        operator, *shapes = UNARY[name]
        weight = None
    elif name in BINARY:
        operator, *shapes = BINARY[name]
        weight = None
    else:
        operator, shape, weight = WEIGHTED[name]
        shapes = [shape]
    x = g.input(*shapes[0])
    inputs = []
    for index, shape in enumerate(shapes):
        if index in operator.whole_inputs:  # 0 or 1, as means are below or above 0
            steep = g.add(Scale(1e9), (g.add(Mean((1,)), (x,)),))
            inputs.append(g.add(HardSigmoid(), (steep,)))
            continue
        other = g.add(Multiply(), (x, constant(g, shapes[0])))
        if shape != shapes[0]:
            other = g.add(Scale(2.0), (constant(g, shape),))
        other = g.add(Add(), (other, constant(g, shape)))
        if name in POSITIVE:
            other = g.add(Scale(1.0, 0.5), (g.add(Multiply(), (other, other)),))
        inputs.append(other)
    result = g.add(operator, tuple(inputs), weight, weight is not None)
    if not alone:
        flat = [g.add(Reshape((_size(g.shape(v)),)), (v,)) for v in (result, *inputs)]
        result = g.add(Concatenate(0), tuple(flat))
        return with_statistics(g.graph())
    result = g.add(Multiply(), (result, constant(g, g.shape(result))))
    return with_statistics(g.graph())


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape))


CASES = [*UNARY, *BINARY, *WEIGHTED]


def operator_of(name: str) -> Operator:
    """The operator of a case."""
    return next(table[name][0] for table in (UNARY, BINARY, WEIGHTED) if name in table)


Function: TypeAlias = Callable[[Tensor], Tensor]

TORCH: Mapping[str, tuple[Function, ...]] = {
    "relu": (F.relu, nn.ReLU(), torch.relu),
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.1), nn.LeakyReLU(0.1)),
    "relu6": (F.relu6, nn.ReLU6(), nn.Hardtanh(0.0, 6.0)),
    "hard_tanh": (lambda x: F.hardtanh(x, -0.5, 0.5), nn.Hardtanh(-0.5, 0.5)),
    "clamp": (lambda x: x.clamp(-0.5, 0.5),),
    "hard_sigmoid": (F.hardsigmoid, nn.Hardsigmoid()),
    "hard_swish": (F.hardswish, nn.Hardswish()),
    "gelu": (F.gelu, nn.GELU()),
    "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), nn.GELU("tanh")),
    "silu": (F.silu, nn.SiLU()),
    "elu": (lambda x: F.elu(x, 0.7), nn.ELU(0.7)),
    "softplus": (F.softplus, nn.Softplus()),
    "softplus_steep": (lambda x: F.softplus(x, 8, 12), nn.Softplus(8, 12)),
    "mish": (F.mish, nn.Mish()),
    "log_sigmoid": (F.logsigmoid, nn.LogSigmoid()),
    "exp": (torch.exp,),
    "log": (torch.log,),
    "square_root": (torch.sqrt,),
    "reciprocal_square_root": (torch.rsqrt,),
    "reciprocal": (torch.reciprocal,),
    "absolute": (torch.abs,),
    "power": (lambda x: x**0.75,),
    "power_below_zero": (lambda x: torch.pow(x, -1.5),),
    "sigmoid": (torch.sigmoid, nn.Sigmoid()),
    "tanh": (torch.tanh, nn.Tanh()),
    "softmax": (lambda x: F.softmax(x, -1), nn.Softmax(2)),
    "log_softmax": (lambda x: F.log_softmax(x, -1), nn.LogSoftmax(2)),
    "divide": (lambda x: x / x.sigmoid(),),
    "divide_by_few": (lambda x: x / x.mean((2, 3), keepdim=True),),
    "max_pool_1d": (nn.MaxPool1d(3, 2, 1),),
    "average_pool_1d": (nn.AvgPool1d(3, 2, 1),),
    "adaptive_average_pool": (nn.AdaptiveAvgPool2d((2, 3)),),
    "mean": (lambda x: x.mean((2, 3)),),
    "norm": (lambda x: torch.linalg.vector_norm(x, dim=(2, 3)),),
    "norm_of_channels": (lambda x: x.norm(dim=1, keepdim=True),),
    "variance": (lambda x: x.var((2, 3)),),
    "variance_of_channels": (lambda x: torch.var(x, 1, keepdim=True, correction=0),),
    "largest": (lambda x: x.amax((2, 3)),),
    "smallest_of_channels": (lambda x: x.amin(1, keepdim=True),),
    "log_sum_exp": (lambda x: torch.logsumexp(x, -1),),
    "resize_bilinear": (
        lambda x: F.interpolate(x, (9, 4), mode="bilinear"),
        nn.Upsample((9, 4), mode="bilinear"),
    ),
    "resize_corners": (lambda x: F.interpolate(x, (7, 11), mode="bilinear", align_corners=True),),
    "resize_scaled": (lambda x: F.interpolate(x, scale_factor=(1.7, 1.6), mode="bilinear"),),
    "resize_bicubic": (lambda x: F.interpolate(x, (9, 4), mode="bicubic"),),
    "resize_nearest": (lambda x: F.interpolate(x, (7, 4)),),
    "resize_nearest_exact": (lambda x: F.interpolate(x, (7, 4), mode="nearest-exact"),),
    "resize_1d": (lambda x: F.interpolate(x, 13, mode="linear"),),
    "resize_3d": (lambda x: F.interpolate(x, (2, 5, 7), mode="trilinear"),),
    "lookup": (
        lambda x: x[:, [3, 0, 0, 2, 3]],
        lambda x: x.index_select(1, torch.tensor([3, 0, 0, 2, 3])),
    ),
    "unfold": (nn.Unfold((3, 2), (1, 2), (1, 0), (2, 1)),),
    "fold": (nn.Fold((2, 6), (2, 2), (1, 2), (1, 0), (2, 1)),),
    "dynamic_depthwise": (
        lambda x: F.conv2d(
            x, x.mean((0, 2, 3))[:, None, None, None].expand(4, 1, 3, 3), None, 1, 1, 1, 4
        ),
    ),
    "larger": (lambda x: torch.maximum(x, x.sigmoid()),),
    "where": (lambda x: torch.where(torch.ones(5, 6).tril() > 0, x, x.sigmoid()),),
    "reshape": (lambda x: x.flatten(1),),
    "permute": (lambda x: x.permute(0, 3, 1, 2),),
    "slice": (lambda x: x[:, 1:4:2],),
    "expand": (lambda x: x.expand(2, 4, 5, 6),),
    "pad": (lambda x: F.pad(x, (0, 3, 2, 1, 1, 0), value=0.5),),
}
"""What a case is traced from, alone, on input of its shape."""


class Called(nn.Module):
    """A function of what a parameter has a part in, so that its gradient crosses the function."""

    def __init__(self, function: Function, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.function, self.gain = function, nn.Parameter(torch.ones(shape))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """The function of the scaled input."""
        return self.function(x * self.gain)


def called(name: str, which: int) -> tuple[Called, Tensor]:
    """The `which`-th way in which torch calls a case, as a model in float32, and an input."""
    shape = UNARY[name][1] if name in UNARY else BINARY[name][1]
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(shape, generator=generator)
    return Called(TORCH[name][which], shape), x.square() + 0.5 if name in POSITIVE else x


WAYS = [(name, which) for name, ways in TORCH.items() for which in range(len(ways))]
"""Every way in which torch calls a case."""


POOLS = [
    MaxPool((2, 2), (2, 2), (0, 0), (1, 1)),
    MaxPool((3, 3), (2, 2), (1, 1), (1, 1), True),
    MaxPool((3, 2), (1, 2), (1, 0), (2, 1)),
    AveragePool((2, 2), (2, 2), (0, 0)),
    AveragePool((3, 3), (2, 2), (1, 1), True, True),
    AveragePool((3, 3), (1, 1), (1, 1), False, False),
    AdaptiveAveragePool((3, 2)),
    AdaptiveAveragePool((1, 1)),
]
"""Pools whose gradients come back through windows that overlap, are cut off, or miss values."""
