"""Every operator kind, in every way it can be used, against autograd and its own price."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from graphs import GraphBuilder
from running import (
    check_gradients,
    check_measured,
    check_rounded_gradients,
    with_statistics,
)

from costsim.ir.graph import LayerGraph
from costsim.ir.operators import (
    ELU,
    GELU,
    OPERATORS,
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
from costsim.ir.operators.activation import Masked
from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.ir.step import TrainingStep
from costsim.run.execution.forward import FORWARD
from costsim.run.execution.in_place import IN_PLACE
from costsim.run.execution.input_gradient import INPUT_GRADIENT
from costsim.run.execution.layout import suits_channels_last
from costsim.run.execution.masks import PASSES
from costsim.run.execution.saved_values import SAVING
from costsim.run.execution.weight_gradient import WEIGHT_GRADIENT

# One small graph for every operator kind.

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
BINARY: Mapping[str, tuple[Operator, tuple[int, ...], tuple[int, ...]]] = {
    "add": (Add(), SPATIAL, SPATIAL),
    "add_broadcast": (Add(), (2, 1, 5, 6), (2, 4, 1, 1)),
    "add_vector": (Add(), (2, 4, 5, 6), (6,)),
    "subtract": (Subtract(), SPATIAL, SPATIAL),
    "subtract_broadcast": (Subtract(), (2, 4, 1, 6), (4, 5, 1)),
    "multiply": (Multiply(), SPATIAL, SPATIAL),
    "multiply_broadcast": (Multiply(), (2, 4, 1, 1), SPATIAL),
    "multiply_gate": (Multiply(), SPATIAL, (2, 4, 1, 1)),
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
    for shape in shapes:
        other = g.add(Multiply(), (x, constant(g, shapes[0])))
        if shape != shapes[0]:
            other = g.add(Scale(2.0), (constant(g, shape),))
        inputs.append(g.add(Add(), (other, constant(g, shape))))
    result = g.add(operator, tuple(inputs), weight, weight is not None)
    if not alone:
        flat = [g.add(Reshape((_size(g.shape(v)),)), (v,)) for v in (result, *inputs)]
        result = g.add(Concatenate(0), tuple(flat))
        return with_statistics(g.graph())
    result = g.add(Multiply(), (result, constant(g, g.shape(result))))
    return with_statistics(g.graph())


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape))


def channel_plans(graph: LayerGraph) -> list[UpdatePlan]:
    """Everything; everything but weights; and for each axis all, one, and scattered channels."""
    full = UpdatePlan.full(graph)
    found = [full, UpdatePlan((), full.biases), UpdatePlan()]
    for name in graph.layers:
        for axis in ("output", "input"):
            count = graph.selectable_channels(name, axis)
            for channels in {
                tuple(range(count)),
                (0,)[:count],
                tuple(range(0, count, 2)),
                tuple(range(1, count)),
            }:
                if channels:
                    subset = ChannelSubset(name, axis, channels)
                    found += [UpdatePlan((subset,)), UpdatePlan((subset,), full.biases)]
    return found


CASES = [*UNARY, *BINARY, *WEIGHTED]


def test_every_kind_has_its_kernels_and_a_case():
    sources = {"input", "constant"}
    views = {kind for kind, operator in OPERATORS.items() if operator.is_view}
    run = OPERATORS.keys() - sources - views
    assert FORWARD.keys() == OPERATORS.keys() - {"input"}
    masked = {k for k, o in OPERATORS.items() if issubclass(o, Masked)}
    assert PASSES.keys() == masked
    assert INPUT_GRADIENT.keys() == run - masked - {"convolution"}
    weighted = {
        k for k, o in OPERATORS.items() if o.selectable_channels is not Operator.selectable_channels
    }
    assert WEIGHT_GRADIENT.keys() == weighted - {"convolution"}
    overwriting = {k for k, o in OPERATORS.items() if o.overwritable_inputs}
    assert IN_PLACE.keys() == overwriting
    saving = {k for k, o in OPERATORS.items() if o.saved is not Operator.saved}
    assert SAVING.keys() == saving - masked
    tried = {op.kind for table in (UNARY, BINARY, WEIGHTED) for op, *_ in table.values()}
    assert tried == OPERATORS.keys() - sources


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "shared"])
@pytest.mark.parametrize("name", CASES)
def test_each_kind_agrees_with_autograd(name, alone):
    graph = case(name, alone=alone)
    step = TrainingStep(batch=graph.batch, micro_batch=graph.batch)
    for plan in channel_plans(graph):
        check_gradients(graph, plan, step)
        check_measured(graph, plan, step)


OF_IMAGES = [
    name
    for name, (operator, shape, _) in WEIGHTED.items()
    if isinstance(operator, Convolution) and shape == SPATIAL
]


@pytest.mark.parametrize("name", OF_IMAGES)
def test_convolutions_of_images_with_channels_last_agree_too(name):
    """Single precision has kernels and a memory format of its own; the images are not square."""
    graph = case(name, alone=True)
    assert suits_channels_last(graph, torch.float32, torch.device("cpu"))
    step = TrainingStep(batch=graph.batch, micro_batch=graph.batch)
    for plan in channel_plans(graph):
        check_rounded_gradients(graph, plan, step)
