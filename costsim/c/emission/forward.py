"""Forward calls as C, one function an operator kind: pointers in, statements out."""

from dataclasses import dataclass
from math import prod

from costsim.c.emission.arguments import (
    ACTIVATION,
    concatenated,
    convolution_kernel,
    convolution_window,
    layer_rows,
    lines_along,
    looped,
    matrix,
    mean_kind,
    mean_steps,
    moved,
    padded,
    planes,
    pooling_window,
    sliced,
    stack,
    weight_blocks,
)
from costsim.c.emission.memory import Memory
from costsim.c.emission.tables import Tables, steps
from costsim.c.emission.text import call, number
from costsim.ir.graph import Call
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
    Shapes,
    Sigmoid,
    SiLU,
    Slice,
    Softmax,
    Subtract,
    Tanh,
    elements,
)
from costsim.ir.operators.activation import Activation, LogSigmoid, Mish, Normalised, Softplus
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
from costsim.ir.operators.pooling import Extremum, LogSumExp, Norm, Pool, Variance
from costsim.ir.operators.reading import Reading
from costsim.ir.operators.sampling import Embedding, Fold, Lookup, Resize, Unfold


@dataclass(frozen=True)
class Site:
    """One forward call being emitted: its pointers are C expressions.

    `saved` is where the mask, the places or the statistics go, "NULL" if they are not needed.
    """

    memory: Memory
    tables: Tables
    call: Call
    shapes: Shapes
    inputs: tuple[str, ...]
    output: str
    saved: str

    @property
    def x(self) -> str:
        """The first input."""
        return self.inputs[0]

    @property
    def size(self) -> int:
        """Elements of the output."""
        return elements(self.shapes.output)

    @property
    def bias(self) -> str:
        """The bias, or "NULL"."""
        return self.memory.vector(self.call.bias.name) if self.call.bias else "NULL"

    def statistic(self, index: int) -> str:
        """A buffer of the module."""
        return self.memory.vector(self.call.buffers[index].name)

    def blocks(self) -> tuple[str, int]:
        """The table of the weight's blocks, and how many there are."""
        return weight_blocks(self.memory, self.tables, self.call, self.shapes.output)


FORWARD: Reading[[Site], list[str]] = Reading("C kernel")
"""Every operator but the sample itself, and those in `NO_KERNEL`."""

NO_KERNEL: Reading[[], str] = Reading("reason for having no C kernel")
"""Operators that PyTorch alone runs, each with the reason that a person is told.

C is optional: a plan with such an operator is priced and executed, and refused by an export.
"""


@NO_KERNEL.of(
    Softplus,
    Mish,
    LogSigmoid,
    Exp,
    Log,
    SquareRoot,
    ReciprocalSquareRoot,
    Reciprocal,
    Absolute,
    Power,
    Divide,
    Norm,
    Extremum,
    Variance,
    LogSumExp,
    Larger,
    Where,
    Resize,
    Lookup,
    Unfold,
    Fold,
    TransposedConvolution,
    DynamicConvolution,
)
def _seldom(o: Operator) -> str:
    return "networks for microcontrollers seldom have it"


@NO_KERNEL.of(Embedding)
def _of_tokens(o: Operator) -> str:
    return "its samples are tokens, and the C takes numbers"


@FORWARD.of(Convolution)
def _convolution(o: Convolution, s: Site) -> list[str]:
    window = convolution_window(o, s.tables, s.shapes, s.shapes.inputs[0][1])
    kernel = convolution_kernel(o, s.shapes)
    return [call(f"costsim_{kernel}_forward", window, *s.blocks(), s.bias, s.x, s.output)]


@FORWARD.of(Linear)
def _linear(o: Linear, s: Site) -> list[str]:
    (x,) = s.shapes.inputs
    sizes = (prod(x[:-1]), x[-1], s.shapes.output[-1])
    return [call("costsim_linear_forward", *sizes, *s.blocks(), s.bias, s.x, s.output)]


@FORWARD.of(MatMul)
def _matmul(o: MatMul, s: Site) -> list[str]:
    a, b = s.shapes.inputs
    rows, depth, columns = a[-2], a[-1], s.shapes.output[-1]
    right = (1, depth) if o.transpose_b else (columns, 1)
    return [
        call(
            "costsim_batched_product",
            stack(s.tables, s.shapes.output, a, b, s.shapes.output),
            rows,
            columns,
            depth,
            matrix(s.inputs[0], depth, 1),
            matrix(s.inputs[1], *right),
            s.output,
            columns,
            number(o.scale),
            0,
        )
    ]


@FORWARD.of(BatchNorm)
def _batch_norm(o: BatchNorm, s: Site) -> list[str]:
    moments = (s.statistic(0), s.statistic(1))
    where = (*planes(s.shapes.output), number(o.eps))
    blocks = s.blocks()
    return [call("costsim_batch_norm_forward", *where, *blocks, s.bias, *moments, s.x, s.output)]


@FORWARD.of(LayerNorm)
def _layer_norm(o: LayerNorm, s: Site) -> list[str]:
    where = (*layer_rows(o, s.shapes.output), number(o.eps))
    pointers = (s.bias, s.x, s.output, s.saved)
    return [call("costsim_layer_norm_forward", *where, *s.blocks(), *pointers)]


@FORWARD.of(GroupNorm)
def _group_norm(o: GroupNorm, s: Site) -> list[str]:
    where = (*planes(s.shapes.output), o.groups, number(o.eps))
    pointers = (s.bias, s.x, s.output, s.saved)
    return [call("costsim_group_norm_forward", *where, *s.blocks(), *pointers)]


@FORWARD.of(ReLU, LeakyReLU, Clamp, HardSigmoid, HardSwish, GELU, SiLU, ELU, Sigmoid, Tanh)
def _activation(o: Activation, s: Site) -> list[str]:
    saved = s.saved if s.saved == "NULL" else f"(uint8_t *){s.saved}"
    arguments = (*ACTIVATION[o](), s.size, s.x, s.output, saved)
    return [call("costsim_activation_forward", *arguments)]


@FORWARD.of(Softmax, LogSoftmax)
def _softmax(o: Normalised, s: Site) -> list[str]:
    where = lines_along(s.shapes.output, o.dimension)
    return [call(f"costsim_{o.kind}_forward", *where, s.x, s.output)]


def _binary(what: str, s: Site) -> list[str]:
    y = s.shapes.output
    a, b = (steps(shape, y) for shape in s.shapes.inputs)
    return [looped(s.tables, what, y, a, b, steps(y), *s.inputs, s.output)]


FORWARD.of(Add)(lambda _o, s: _binary("COSTSIM_ADD", s))
FORWARD.of(Subtract)(lambda _o, s: _binary("COSTSIM_SUBTRACT", s))
FORWARD.of(Multiply)(lambda _o, s: _binary("COSTSIM_MULTIPLY", s))


@FORWARD.of(Scale)
def _scale(o: Scale, s: Site) -> list[str]:
    factors = (number(o.factor), number(o.offset))
    return [call("costsim_scale", s.size, *factors, s.x, s.output)]


@FORWARD.of(MaxPool)
def _max_pool(o: MaxPool, s: Site) -> list[str]:
    window = pooling_window(o, s.tables, s.shapes)
    saved = s.saved if s.saved == "NULL" else f"(uint8_t *){s.saved}"
    return [call("costsim_max_pool_forward", window, s.x, s.output, saved)]


@FORWARD.of(AveragePool, AdaptiveAveragePool)
def _average_pool(o: Pool, s: Site) -> list[str]:
    window = pooling_window(o, s.tables, s.shapes)
    return [call("costsim_average_pool_forward", window, mean_kind(o), s.x, s.output)]


@FORWARD.of(Mean)
def _mean(o: Mean, s: Site) -> list[str]:
    (x,) = s.shapes.inputs
    t, count, size = s.tables, elements(x) // s.size, (s.size,)
    return [
        call("costsim_fill", s.size, "0.0f", s.output),
        looped(t, "COSTSIM_ADD_TO", x, steps(x), None, mean_steps(o, x), s.x, "NULL", s.output),
        looped(
            t, "COSTSIM_DIVIDE", size, (1,), None, (1,), s.output, "NULL", s.output, scalar=count
        ),
    ]


@FORWARD.of(Constant, Reshape)
def _nothing(o: Operator, s: Site) -> list[str]:
    return []


@FORWARD.of(Permute)
def _permute(o: Permute, s: Site) -> list[str]:
    (x,) = s.shapes.inputs
    own, y = steps(x), s.shapes.output
    a = tuple(own[d] for d in o.dimensions)
    return [looped(s.tables, "COSTSIM_COPY", y, a, None, steps(y), s.x, "NULL", s.output)]


@FORWARD.of(Slice)
def _slice(o: Slice, s: Site) -> list[str]:
    y = s.shapes.output
    start, a = sliced(o, s.shapes.inputs[0])
    x = moved(s.x, start)
    return [looped(s.tables, "COSTSIM_COPY", y, a, None, steps(y), x, "NULL", s.output)]


@FORWARD.of(Concatenate)
def _concatenate(o: Concatenate, s: Site) -> list[str]:
    own = steps(s.shapes.output)
    found = []
    for i, (shape, x) in enumerate(zip(s.shapes.inputs, s.inputs, strict=True)):
        y = moved(s.output, concatenated(o, s.shapes, i))
        found.append(looped(s.tables, "COSTSIM_COPY", shape, steps(shape), None, own, x, "NULL", y))
    return found


@FORWARD.of(Expand)
def _expand(o: Expand, s: Site) -> list[str]:
    y = s.shapes.output
    a = steps(s.shapes.inputs[0], y)
    return [looped(s.tables, "COSTSIM_COPY", y, a, None, steps(y), s.x, "NULL", s.output)]


@FORWARD.of(Pad)
def _pad(o: Pad, s: Site) -> list[str]:
    shared, in_x, in_y = padded(o, s.shapes)
    x, y = s.shapes.inputs[0], s.shapes.output
    pointers = (moved(s.x, in_x), "NULL", moved(s.output, in_y))
    return [
        call("costsim_fill", s.size, number(o.value), s.output),
        looped(s.tables, "COSTSIM_COPY", shared, steps(x), None, steps(y), *pointers),
    ]
