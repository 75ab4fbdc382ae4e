"""Forward calls as C, one function an operator kind: pointers in, statements out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Any, TypeAlias

from costsim.emission.memory import Memory
from costsim.emission.parts import Block, is_depthwise
from costsim.emission.tables import Tables, steps
from costsim.emission.text import braces, call, number
from costsim.graph import Call
from costsim.operators import LayerNorm, Shape, Shapes, elements


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


ForwardEmitter: TypeAlias = Callable[[Any, Site], list[str]]
"""(the call's operator, what it works on) to statements."""


def weight_blocks(memory: Memory, tables: Tables, c: Call, output: Shape) -> tuple[str, int]:
    """The blocks of a call's weight as a table; one of ones where there is no weight."""
    if c.weight is None:
        size = output[c.operator.channel_axis(memory.graph.shapes(c), "output")]
        if c.operator.kind == "layer_norm":
            assert isinstance(c.operator, LayerNorm)
            size = prod(output[-c.operator.dimensions :])
        return tables.blocks([braces(("NULL", "NULL", "NULL", size, 1, 0, 0, 0, 0))]), 1
    blocks = memory.blocks(c)
    initialisers = [block_initialiser(tables, b, memory.block_base(c, b)) for b in blocks]
    return tables.blocks(initialisers), len(blocks)


def block_initialiser(
    tables: Tables, block: Block, base: str, place: Mapping[int, int] | None = None
) -> str:
    """A `costsim_block`; `place` says where each input channel lies, if not all are there."""
    first_out, outs = tables.run(block.outputs)
    inputs = block.inputs if place is None else tuple(place[c] for c in block.inputs)
    first_in, ins = tables.run(inputs)
    n_ins = block.size // (len(block.outputs) * block.taps)
    numbers = (len(block.outputs), n_ins, first_out, first_in)
    flags = (int(block.adds_output), int(block.adds_input))
    return braces((base, outs, ins, *numbers, *flags))


def convolution_kernel(o: Any, c: Call, shapes: Shapes) -> str:
    """Which kernels a convolution takes: `pointwise`, `depthwise` or `convolution`."""
    assert shapes.weight is not None
    if is_depthwise(c, shapes):
        return "depthwise"
    plain = prod(shapes.weight[2:]) == 1 and set(o.stride) <= {1} and not any(o.padding)
    return "pointwise" if plain else "convolution"


def convolution_window(o: Any, tables: Tables, shapes: Shapes, inputs: int) -> str:
    """The window of a convolution whose x has `inputs` channels in memory."""
    assert shapes.weight is not None
    (x,) = shapes.inputs
    return tables.window(
        (x[0], inputs, shapes.output[1]),
        x[2:],
        shapes.output[2:],
        kernel=shapes.weight[2:],
        stride=o.stride,
        padding=o.padding,
        dilation=o.dilation,
    )


def pooling_window(o: Any, tables: Tables, shapes: Shapes) -> str:
    """The window of a pool; every channel of every sample is a plane."""
    (x,) = shapes.inputs
    rank = len(getattr(o, "kernel", ()) or o.output)
    split = len(x) - rank
    return tables.window(
        (prod(x[:split]), 1, 1),
        x[split:],
        shapes.output[split:],
        kernel=getattr(o, "kernel", ()),
        stride=getattr(o, "stride", ()),
        padding=getattr(o, "padding", ()),
        dilation=getattr(o, "dilation", ()),
    )


def mean_kind(o: Any) -> str:
    """How an average pool counts."""
    if o.kind == "adaptive_average_pool":
        return "COSTSIM_MEAN_ADAPTIVE"
    return "COSTSIM_MEAN_OF_PADDED" if o.count_padding else "COSTSIM_MEAN_INSIDE"


def looped(
    t: Tables, what: str, shape: Shape, a: Any, b: Any, y: Any, *pointers: str, scalar: float = 0.0
) -> str:
    """Loops over `shape`; a, b and y are steps, b may be None, pointers are of a, b, y."""
    loops = t.loops(shape, a, b or (0,) * len(shape), y)
    return call("costsim_loop", what, loops, number(scalar), *pointers)


def _convolution(o: Any, s: Site) -> list[str]:
    window = convolution_window(o, s.tables, s.shapes, s.shapes.inputs[0][1])
    kernel = convolution_kernel(o, s.call, s.shapes)
    return [call(f"costsim_{kernel}_forward", window, *s.blocks(), s.bias, s.x, s.output)]


def _linear(o: Any, s: Site) -> list[str]:
    (x,) = s.shapes.inputs
    sizes = (prod(x[:-1]), x[-1], s.shapes.output[-1])
    return [call("costsim_linear_forward", *sizes, *s.blocks(), s.bias, s.x, s.output)]


def matrix(data: str, row: int, column: int) -> str:
    """A dense matrix by its steps, as a compound literal."""
    return f"&(const costsim_matrix){{{data}, {row}, {column}, NULL, NULL}}"


def stack(t: Tables, into: Shape, a: Shape, b: Shape, y: Shape) -> str:
    """Loops over stacks of matrices whose own two dimensions are the last."""
    leading = into[:-2]

    def along(shape: Shape) -> tuple[int, ...]:
        own = steps(shape)
        padded = (0,) * (len(into) - len(shape))
        found = (
            *padded,
            *(0 if n == 1 else step for n, step in zip(shape[:-2], own[:-2], strict=True)),
        )
        return found

    return t.loops(leading, along(a), along(b), along(y))


def _matmul(o: Any, s: Site) -> list[str]:
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


def planes(shape: Shape) -> tuple[int, int, int]:
    """Samples, channels and elements of a plane of `[N, C, ...]`."""
    return shape[0], shape[1], prod(shape[2:])


def _batch_norm(o: Any, s: Site) -> list[str]:
    moments = (s.statistic(0), s.statistic(1))
    where = (*planes(s.shapes.output), number(o.eps))
    blocks = s.blocks()
    return [call("costsim_batch_norm_forward", *where, *blocks, s.bias, *moments, s.x, s.output)]


def layer_rows(o: Any, shape: Shape) -> tuple[int, int]:
    """Rows that are normalised, and their size."""
    size = prod(shape[-o.dimensions :])
    return elements(shape) // size, size


def _layer_norm(o: Any, s: Site) -> list[str]:
    where = (*layer_rows(o, s.shapes.output), number(o.eps))
    pointers = (s.bias, s.x, s.output, s.saved)
    return [call("costsim_layer_norm_forward", *where, *s.blocks(), *pointers)]


def _group_norm(o: Any, s: Site) -> list[str]:
    where = (*planes(s.shapes.output), o.groups, number(o.eps))
    pointers = (s.bias, s.x, s.output, s.saved)
    return [call("costsim_group_norm_forward", *where, *s.blocks(), *pointers)]


def activation(name: str, p: float = 0.0, q: float = 0.0) -> tuple[str, str, str]:
    """An activation and its two parameters, as arguments."""
    return f"COSTSIM_{name}", number(p), number(q)


def _activation(o: Any, s: Site) -> list[str]:
    saved = s.saved if s.saved == "NULL" else f"(uint8_t *){s.saved}"
    arguments = (*activation_arguments(o), s.size, s.x, s.output, saved)
    return [call("costsim_activation_forward", *arguments)]


def activation_arguments(o: Any) -> tuple[str, str, str]:
    """Which activation an operator is."""
    if o.kind == "clamp":
        kind = "CLAMP_PASSES" if o.gradient_at_bounds else "CLAMP"
        return activation(kind, o.minimum, o.maximum)
    if o.kind == "gelu":
        return activation("GELU" if o.approximate == "none" else "GELU_TANH")
    return activation(o.kind.upper(), getattr(o, "negative_slope", 0.0) or getattr(o, "alpha", 0.0))


def lines_along(shape: Shape, dimension: int) -> tuple[int, int, int]:
    """Elements before, along and after a dimension."""
    d = dimension % len(shape)
    return prod(shape[:d]), shape[d], prod(shape[d + 1 :])


def _softmax(o: Any, s: Site) -> list[str]:
    where = lines_along(s.shapes.output, o.dimension)
    return [call("costsim_softmax_forward", *where, s.x, s.output)]


def _binary(what: str) -> ForwardEmitter:
    def emit(o: Any, s: Site) -> list[str]:
        y = s.shapes.output
        a, b = (steps(shape, y) for shape in s.shapes.inputs)
        return [looped(s.tables, what, y, a, b, steps(y), *s.inputs, s.output)]

    return emit


def _scale(o: Any, s: Site) -> list[str]:
    factors = (number(o.factor), number(o.offset))
    return [call("costsim_scale", s.size, *factors, s.x, s.output)]


def _max_pool(o: Any, s: Site) -> list[str]:
    window = pooling_window(o, s.tables, s.shapes)
    saved = s.saved if s.saved == "NULL" else f"(uint8_t *){s.saved}"
    return [call("costsim_max_pool_forward", window, s.x, s.output, saved)]


def _average_pool(o: Any, s: Site) -> list[str]:
    window = pooling_window(o, s.tables, s.shapes)
    return [call("costsim_average_pool_forward", window, mean_kind(o), s.x, s.output)]


def mean_steps(o: Any, shape: Shape) -> tuple[int, ...]:
    """Steps in the means of a tensor of `shape`: 0 along what is averaged over."""
    collapsed = tuple(1 if d in o.dimensions else size for d, size in enumerate(shape))
    own = steps(collapsed)
    return tuple(0 if d in o.dimensions else own[d] for d in range(len(shape)))


def _mean(o: Any, s: Site) -> list[str]:
    (x,) = s.shapes.inputs
    t, count, size = s.tables, elements(x) // s.size, (s.size,)
    return [
        call("costsim_fill", s.size, "0.0f", s.output),
        looped(t, "COSTSIM_ADD_TO", x, steps(x), None, mean_steps(o, x), s.x, "NULL", s.output),
        looped(
            t, "COSTSIM_DIVIDE", size, (1,), None, (1,), s.output, "NULL", s.output, scalar=count
        ),
    ]


def _nothing(o: Any, s: Site) -> list[str]:
    return []


def moved(pointer: str, offset: int) -> str:
    """A pointer some elements further on."""
    return f"{pointer} + {offset}" if offset else pointer


def _permute(o: Any, s: Site) -> list[str]:
    (x,) = s.shapes.inputs
    own, y = steps(x), s.shapes.output
    a = tuple(own[d] for d in o.dimensions)
    return [looped(s.tables, "COSTSIM_COPY", y, a, None, steps(y), s.x, "NULL", s.output)]


def sliced(o: Any, x: Shape) -> tuple[int, tuple[int, ...]]:
    """Where a slice starts in its input, in elements, and its steps there."""
    own = steps(x)
    d = o.dimension
    return o.start * own[d], tuple(n * (o.step if i == d else 1) for i, n in enumerate(own))


def _slice(o: Any, s: Site) -> list[str]:
    y = s.shapes.output
    start, a = sliced(o, s.shapes.inputs[0])
    x = moved(s.x, start)
    return [looped(s.tables, "COSTSIM_COPY", y, a, None, steps(y), x, "NULL", s.output)]


def concatenated(o: Any, shapes: Shapes, index: int) -> int:
    """Where input `index` starts in the output of a concatenation, in elements."""
    d: int = o.dimension % len(shapes.output)
    return sum(shape[d] for shape in shapes.inputs[:index]) * steps(shapes.output)[d]


def _concatenate(o: Any, s: Site) -> list[str]:
    own = steps(s.shapes.output)
    found = []
    for i, (shape, x) in enumerate(zip(s.shapes.inputs, s.inputs, strict=True)):
        y = moved(s.output, concatenated(o, s.shapes, i))
        found.append(looped(s.tables, "COSTSIM_COPY", shape, steps(shape), None, own, x, "NULL", y))
    return found


def _expand(o: Any, s: Site) -> list[str]:
    y = s.shapes.output
    a = steps(s.shapes.inputs[0], y)
    return [looped(s.tables, "COSTSIM_COPY", y, a, None, steps(y), s.x, "NULL", s.output)]


def padded(o: Any, shapes: Shapes) -> tuple[Shape, int, int]:
    """What input and output of a pad share, and where it starts in each, in elements.

    Negative padding cuts off.
    """
    x, y = shapes.inputs[0], shapes.output
    before = [low for low, _ in o.padding]
    shared = tuple(
        size + min(low, 0) + min(high, 0) for size, (low, high) in zip(x, o.padding, strict=True)
    )
    in_x = sum(max(-low, 0) * step for low, step in zip(before, steps(x), strict=True))
    in_y = sum(max(low, 0) * step for low, step in zip(before, steps(y), strict=True))
    return shared, in_x, in_y


def _pad(o: Any, s: Site) -> list[str]:
    shared, in_x, in_y = padded(o, s.shapes)
    x, y = s.shapes.inputs[0], s.shapes.output
    pointers = (moved(s.x, in_x), "NULL", moved(s.output, in_y))
    return [
        call("costsim_fill", s.size, number(o.value), s.output),
        looped(s.tables, "COSTSIM_COPY", shared, steps(x), None, steps(y), *pointers),
    ]


FORWARD: Mapping[str, ForwardEmitter] = MappingProxyType(
    {
        "constant": _nothing,
        "convolution": _convolution,
        "linear": _linear,
        "matmul": _matmul,
        "batch_norm": _batch_norm,
        "layer_norm": _layer_norm,
        "group_norm": _group_norm,
        "relu": _activation,
        "leaky_relu": _activation,
        "clamp": _activation,
        "hard_sigmoid": _activation,
        "hard_swish": _activation,
        "gelu": _activation,
        "silu": _activation,
        "elu": _activation,
        "sigmoid": _activation,
        "tanh": _activation,
        "softmax": _softmax,
        "add": _binary("COSTSIM_ADD"),
        "subtract": _binary("COSTSIM_SUBTRACT"),
        "multiply": _binary("COSTSIM_MULTIPLY"),
        "scale": _scale,
        "max_pool": _max_pool,
        "average_pool": _average_pool,
        "adaptive_average_pool": _average_pool,
        "mean": _mean,
        "reshape": _nothing,
        "permute": _permute,
        "slice": _slice,
        "concatenate": _concatenate,
        "expand": _expand,
        "pad": _pad,
    }
)
"""Every operator kind but `input`, which is the sample itself."""
