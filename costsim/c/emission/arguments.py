"""What kernels are told of a call: blocks, windows, loops and places, as C arguments.

The same for the forward pass and for the gradients, in floats and in 8 bits.
"""

from collections.abc import Mapping, Sequence
from math import prod

from costsim.c.emission.memory import Memory
from costsim.c.emission.parts import Block
from costsim.c.emission.tables import Tables, steps
from costsim.c.emission.text import braces, call, number
from costsim.ir.graph import Call
from costsim.ir.operators import (
    ELU,
    GELU,
    Clamp,
    Concatenate,
    Convolution,
    HardSigmoid,
    HardSwish,
    LayerNorm,
    LeakyReLU,
    Mean,
    Pad,
    ReLU,
    Shape,
    Shapes,
    Sigmoid,
    SiLU,
    Slice,
    Tanh,
    elements,
)
from costsim.ir.operators.pooling import Pool
from costsim.ir.operators.reading import Reading


def weight_blocks(memory: Memory, tables: Tables, c: Call, output: Shape) -> tuple[str, int]:
    """The blocks of a call's weight as a table; one of ones where there is no weight."""
    if c.weight is None:
        size = prod(output[d] for d in c.operator.bias_dimensions(memory.graph.shapes(c)))
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


def convolution_kernel(o: Convolution, shapes: Shapes) -> str:
    """Which kernels a convolution takes: `pointwise`, `depthwise` or `convolution`."""
    assert shapes.weight is not None
    if o.is_depthwise(shapes):
        return "depthwise"
    plain = prod(shapes.weight[2:]) == 1 and set(o.stride) <= {1} and not any(o.padding)
    return "pointwise" if plain else "convolution"


def convolution_window(o: Convolution, tables: Tables, shapes: Shapes, inputs: int) -> str:
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


def pooling_window(o: Pool, tables: Tables, shapes: Shapes) -> str:
    """The window of a pool; every channel of every sample is a plane."""
    (x,), w = shapes.inputs, o.window
    split = len(x) - w.rank
    return tables.window(
        (prod(x[:split]), 1, 1),
        x[split:],
        shapes.output[split:],
        kernel=w.kernel,
        stride=w.stride,
        padding=w.padding,
        dilation=w.dilation,
    )


def mean_kind(o: Pool) -> str:
    """How an average pool counts."""
    if not o.window.kernel:
        return "COSTSIM_MEAN_ADAPTIVE"
    return "COSTSIM_MEAN_OF_PADDED" if o.window.counts_padding else "COSTSIM_MEAN_INSIDE"


def looped(
    t: Tables,
    what: str,
    shape: Shape,
    a: Sequence[int],
    b: Sequence[int] | None,
    y: Sequence[int],
    *pointers: str,
    scalar: float = 0.0,
) -> str:
    """Loops over `shape`; a, b and y are steps, b may be None, pointers are of a, b, y."""
    loops = t.loops(shape, a, b or (0,) * len(shape), y)
    return call("costsim_loop", what, loops, number(scalar), *pointers)


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


def planes(shape: Shape) -> tuple[int, int, int]:
    """Samples, channels and elements of a plane of `[N, C, ...]`."""
    return shape[0], shape[1], prod(shape[2:])


def layer_rows(o: LayerNorm, shape: Shape) -> tuple[int, int]:
    """Rows that are normalised, and their size."""
    size = prod(shape[-o.dimensions :])
    return elements(shape) // size, size


def activation(name: str, p: float = 0.0, q: float = 0.0) -> tuple[str, str, str]:
    """An activation and its two parameters, as arguments."""
    return f"COSTSIM_{name}", number(p), number(q)


ACTIVATION: Reading[[], tuple[str, str, str]] = Reading("activation in C")
"""Which activation an operator is, and its two parameters."""
ACTIVATION.of(ReLU, HardSigmoid, HardSwish, SiLU, Sigmoid, Tanh)(
    lambda o: activation(o.kind.upper())
)
ACTIVATION.of(LeakyReLU)(lambda o: activation("LEAKY_RELU", o.negative_slope))
ACTIVATION.of(ELU)(lambda o: activation("ELU", o.alpha))
ACTIVATION.of(GELU)(lambda o: activation("GELU" if o.approximate == "none" else "GELU_TANH"))


@ACTIVATION.of(Clamp)
def _clamp(o: Clamp) -> tuple[str, str, str]:
    return activation("CLAMP_PASSES" if o.gradient_at_bounds else "CLAMP", o.minimum, o.maximum)


def lines_along(shape: Shape, dimension: int) -> tuple[int, int, int]:
    """Elements before, along and after a dimension."""
    d = dimension % len(shape)
    return prod(shape[:d]), shape[d], prod(shape[d + 1 :])


def mean_steps(o: Mean, shape: Shape) -> tuple[int, ...]:
    """Steps in the means of a tensor of `shape`: 0 along what is averaged over."""
    collapsed = tuple(1 if d in o.dimensions else size for d, size in enumerate(shape))
    own = steps(collapsed)
    return tuple(0 if d in o.dimensions else own[d] for d in range(len(shape)))


def moved(pointer: str, offset: int) -> str:
    """A pointer some elements further on."""
    return f"{pointer} + {offset}" if offset else pointer


def sliced(o: Slice, x: Shape) -> tuple[int, tuple[int, ...]]:
    """Where a slice starts in its input, in elements, and its steps there."""
    own = steps(x)
    d = o.dimension
    return o.start * own[d], tuple(n * (o.step if i == d else 1) for i, n in enumerate(own))


def concatenated(o: Concatenate, shapes: Shapes, index: int) -> int:
    """Where input `index` starts in the output of a concatenation, in elements."""
    d = o.dimension % len(shapes.output)
    return sum(shape[d] for shape in shapes.inputs[:index]) * steps(shapes.output)[d]


def padded(o: Pad, shapes: Shapes) -> tuple[Shape, int, int]:
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
