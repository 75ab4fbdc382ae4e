"""Gradients with respect to inputs as C, one function an operator kind."""

from collections.abc import Mapping, Sequence
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
    Scale,
    Shape,
    Shapes,
    Sigmoid,
    SiLU,
    Slice,
    Softmax,
    Subtract,
    Tanh,
    elements,
)
from costsim.ir.operators.activation import Activation, Normalised
from costsim.ir.operators.pooling import Pool
from costsim.ir.operators.reading import Reading


@dataclass(frozen=True)
class GradientSite:
    """One input gradient being emitted: its pointers are C expressions.

    `kept` are inputs that were kept, by index; `output` and `saved` are "NULL" if not needed.
    `into`: the gradient is added to what is in `dx` already. `dx` may be `dy`.
    """

    memory: Memory
    tables: Tables
    call: Call
    shapes: Shapes
    index: int
    dy: str
    dx: str
    kept: Mapping[int, str]
    output: str
    saved: str
    into: bool

    @property
    def shape(self) -> Shape:
        """Shape of the input."""
        return self.shapes.inputs[self.index]

    @property
    def size(self) -> int:
        """Elements of the input."""
        return elements(self.shape)

    @property
    def same_shape(self) -> bool:
        """Whether input and output have one shape."""
        return self.shape == self.shapes.output

    def blocks(self) -> tuple[str, int]:
        """The table of the weight's blocks, and how many there are."""
        return weight_blocks(self.memory, self.tables, self.call, self.shapes.output)

    def zeros(self) -> str:
        """Start from zeros."""
        return call("costsim_fill", self.size, "0.0f", self.dx)


INPUT_GRADIENT: Reading[[GradientSite], list[str]] = Reading("C kernel of the input gradient")
"""Every operator kind that is run and has inputs; a view's gradient is its output's own."""


@INPUT_GRADIENT.of(Convolution)
def _convolution(o: Convolution, s: GradientSite) -> list[str]:
    window = convolution_window(o, s.tables, s.shapes, s.shape[1])
    kernel = convolution_kernel(o, s.shapes)
    return [call(f"costsim_{kernel}_input_gradient", window, *s.blocks(), s.dy, s.dx)]


@INPUT_GRADIENT.of(Linear)
def _linear(o: Linear, s: GradientSite) -> list[str]:
    sizes = (prod(s.shape[:-1]), s.shape[-1], s.shapes.output[-1])
    return [call("costsim_linear_input_gradient", *sizes, *s.blocks(), s.dy, s.dx)]


@INPUT_GRADIENT.of(MatMul)
def _matmul(o: MatMul, s: GradientSite) -> list[str]:
    y, other = s.shapes.output, s.shapes.inputs[1 - s.index]
    m, n, depth = y[-2], y[-1], s.shapes.inputs[0][-1]
    kept = s.kept[1 - s.index]
    if s.index == 0:  # dA = dY B^T
        b = matrix(kept, depth, 1) if o.transpose_b else matrix(kept, 1, n)
        sizes, operands, order = (m, depth, n), (matrix(s.dy, n, 1), b), (y, other)
    elif o.transpose_b:  # B is [n, depth]: dB = dY^T A
        sizes = (n, depth, m)
        operands, order = (matrix(s.dy, 1, n), matrix(kept, depth, 1)), (y, other)
    else:  # dB = A^T dY
        sizes = (depth, n, m)
        operands, order = (matrix(kept, 1, depth), matrix(s.dy, n, 1)), (other, y)
    summed = s.shape[:-2] != y[:-2]
    loops = stack(s.tables, y, *order, s.shape)
    product = call(
        "costsim_batched_product",
        loops,
        *sizes,
        *operands,
        s.dx,
        s.shape[-1],
        number(o.scale),
        int(summed),
    )
    return [s.zeros(), product] if summed else [product]


@INPUT_GRADIENT.of(BatchNorm)
def _batch_norm(o: BatchNorm, s: GradientSite) -> list[str]:
    where = (*planes(s.shape), number(o.eps))
    variance = s.memory.vector(s.call.buffers[1].name)
    blocks = s.blocks()
    return [call("costsim_batch_norm_input_gradient", *where, *blocks, variance, s.dy, s.dx)]


@INPUT_GRADIENT.of(LayerNorm)
def _layer_norm(o: LayerNorm, s: GradientSite) -> list[str]:
    pointers = (s.kept[0], s.saved, s.dy, s.dx)
    where = layer_rows(o, s.shape)
    return [call("costsim_layer_norm_input_gradient", *where, *s.blocks(), *pointers)]


@INPUT_GRADIENT.of(GroupNorm)
def _group_norm(o: GroupNorm, s: GradientSite) -> list[str]:
    pointers = (s.kept[0], s.saved, s.dy, s.dx)
    where = (*planes(s.shape), o.groups)
    return [call("costsim_group_norm_input_gradient", *where, *s.blocks(), *pointers)]


def _masked(s: GradientSite, inside: float = 1.0, outside: float = 0.0) -> list[str]:
    slopes, mask = (number(inside), number(outside)), f"(const uint8_t *){s.saved}"
    return [call("costsim_mask_input_gradient", s.size, *slopes, mask, s.dy, s.dx)]


INPUT_GRADIENT.of(ReLU, Clamp)(lambda _o, s: _masked(s))
INPUT_GRADIENT.of(LeakyReLU)(lambda o, s: _masked(s, outside=o.negative_slope))
INPUT_GRADIENT.of(HardSigmoid)(lambda _o, s: _masked(s, 1.0 / 6.0))


@INPUT_GRADIENT.of(HardSwish, GELU, SiLU, ELU, Sigmoid, Tanh)
def _activation(o: Activation, s: GradientSite) -> list[str]:
    what, p, _ = ACTIVATION[o]()
    x = s.output if s.output != "NULL" else s.kept[0]
    return [call("costsim_activation_input_gradient", what, p, s.size, x, s.dy, s.dx)]


@INPUT_GRADIENT.of(Softmax, LogSoftmax)
def _softmax(o: Normalised, s: GradientSite) -> list[str]:
    where = lines_along(s.shape, o.dimension)
    return [call(f"costsim_{o.kind}_input_gradient", *where, s.output, s.dy, s.dx)]


def _summed(
    s: GradientSite, what: str, b: Sequence[int] | None = None, pointer: str = "NULL"
) -> list[str]:
    """Sum over what was repeated."""
    y = s.shapes.output
    into = steps(s.shape, y)
    return [s.zeros(), looped(s.tables, what, y, steps(y), b, into, s.dy, pointer, s.dx)]


@INPUT_GRADIENT.of(Add)
def _add(o: Add, s: GradientSite) -> list[str]:
    return _summed(s, "COSTSIM_ADD_TO")


@INPUT_GRADIENT.of(Subtract)
def _subtract(o: Subtract, s: GradientSite) -> list[str]:
    if s.same_shape:
        return [call("costsim_scale", s.size, "-1.0f", "0.0f", s.dy, s.dx)]
    return _summed(s, "COSTSIM_ADD_TO" if s.index == 0 else "COSTSIM_SUBTRACT_FROM")


@INPUT_GRADIENT.of(Multiply)
def _multiply(o: Multiply, s: GradientSite) -> list[str]:
    y, other = s.shapes.output, 1 - s.index
    b = steps(s.shapes.inputs[other], y)
    if s.same_shape:
        pointers = (s.dy, s.kept[other], s.dx)
        return [looped(s.tables, "COSTSIM_MULTIPLY", y, steps(y), b, steps(y), *pointers)]
    return _summed(s, "COSTSIM_ADD_PRODUCT", b, s.kept[other])


@INPUT_GRADIENT.of(Scale)
def _scale(o: Scale, s: GradientSite) -> list[str]:
    return [call("costsim_scale", s.size, number(o.factor), "0.0f", s.dy, s.dx)]


@INPUT_GRADIENT.of(MaxPool)
def _max_pool(o: MaxPool, s: GradientSite) -> list[str]:
    window = pooling_window(o, s.tables, s.shapes)
    places = f"(const uint8_t *){s.saved}"
    return [call("costsim_max_pool_input_gradient", window, places, s.dy, s.dx)]


@INPUT_GRADIENT.of(AveragePool, AdaptiveAveragePool)
def _average_pool(o: Pool, s: GradientSite) -> list[str]:
    window = pooling_window(o, s.tables, s.shapes)
    return [call("costsim_average_pool_input_gradient", window, mean_kind(o), s.dy, s.dx)]


@INPUT_GRADIENT.of(Mean)
def _mean(o: Mean, s: GradientSite) -> list[str]:
    x = s.shape
    count = s.size // elements(s.shapes.output)
    a = mean_steps(o, x)
    pointers = (s.dy, "NULL", s.dx)
    return [looped(s.tables, "COSTSIM_DIVIDE", x, a, None, steps(x), *pointers, scalar=count)]


@INPUT_GRADIENT.of(Permute)
def _permute(o: Permute, s: GradientSite) -> list[str]:
    own, y = steps(s.shape), s.shapes.output
    into = tuple(own[d] for d in o.dimensions)
    return [looped(s.tables, "COSTSIM_COPY", y, steps(y), None, into, s.dy, "NULL", s.dx)]


@INPUT_GRADIENT.of(Slice)
def _slice(o: Slice, s: GradientSite) -> list[str]:
    y = s.shapes.output
    start, into = sliced(o, s.shape)
    dx = moved(s.dx, start)
    added = looped(s.tables, "COSTSIM_ADD_TO", y, steps(y), None, into, s.dy, "NULL", dx)
    return [added] if s.into else [s.zeros(), added]


@INPUT_GRADIENT.of(Concatenate)
def _concatenate(o: Concatenate, s: GradientSite) -> list[str]:
    dy, own = moved(s.dy, concatenated(o, s.shapes, s.index)), steps(s.shapes.output)
    pointers = (dy, "NULL", s.dx)
    return [looped(s.tables, "COSTSIM_COPY", s.shape, own, None, steps(s.shape), *pointers)]


@INPUT_GRADIENT.of(Expand)
def _expand(o: Expand, s: GradientSite) -> list[str]:
    return _summed(s, "COSTSIM_ADD_TO")


@INPUT_GRADIENT.of(Pad)
def _pad(o: Pad, s: GradientSite) -> list[str]:
    shared, in_x, in_y = padded(o, s.shapes)
    y = s.shapes.output
    pointers = (moved(s.dy, in_y), "NULL", moved(s.dx, in_x))
    copied = looped(s.tables, "COSTSIM_COPY", shared, steps(y), None, steps(s.shape), *pointers)
    return [s.zeros(), copied] if shared != s.shape else [copied]
