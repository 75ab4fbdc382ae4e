"""Forward calls as C, one function an operator kind: pointers in, statements out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Any, TypeAlias

from costsim.c.emission.arguments import (
    activation_arguments,
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
from costsim.ir.operators import Shapes, elements


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


def _convolution(o: Any, s: Site) -> list[str]:
    window = convolution_window(o, s.tables, s.shapes, s.shapes.inputs[0][1])
    kernel = convolution_kernel(o, s.call, s.shapes)
    return [call(f"costsim_{kernel}_forward", window, *s.blocks(), s.bias, s.x, s.output)]


def _linear(o: Any, s: Site) -> list[str]:
    (x,) = s.shapes.inputs
    sizes = (prod(x[:-1]), x[-1], s.shapes.output[-1])
    return [call("costsim_linear_forward", *sizes, *s.blocks(), s.bias, s.x, s.output)]


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


def _batch_norm(o: Any, s: Site) -> list[str]:
    moments = (s.statistic(0), s.statistic(1))
    where = (*planes(s.shapes.output), number(o.eps))
    blocks = s.blocks()
    return [call("costsim_batch_norm_forward", *where, *blocks, s.bias, *moments, s.x, s.output)]


def _layer_norm(o: Any, s: Site) -> list[str]:
    where = (*layer_rows(o, s.shapes.output), number(o.eps))
    pointers = (s.bias, s.x, s.output, s.saved)
    return [call("costsim_layer_norm_forward", *where, *s.blocks(), *pointers)]


def _group_norm(o: Any, s: Site) -> list[str]:
    where = (*planes(s.shapes.output), o.groups, number(o.eps))
    pointers = (s.bias, s.x, s.output, s.saved)
    return [call("costsim_group_norm_forward", *where, *s.blocks(), *pointers)]


def _activation(o: Any, s: Site) -> list[str]:
    saved = s.saved if s.saved == "NULL" else f"(uint8_t *){s.saved}"
    arguments = (*activation_arguments(o), s.size, s.x, s.output, saved)
    return [call("costsim_activation_forward", *arguments)]


def _softmax(o: Any, s: Site) -> list[str]:
    where = lines_along(s.shapes.output, o.dimension)
    return [call(f"costsim_{o.kind}_forward", *where, s.x, s.output)]


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


def _permute(o: Any, s: Site) -> list[str]:
    (x,) = s.shapes.inputs
    own, y = steps(x), s.shapes.output
    a = tuple(own[d] for d in o.dimensions)
    return [looped(s.tables, "COSTSIM_COPY", y, a, None, steps(y), s.x, "NULL", s.output)]


def _slice(o: Any, s: Site) -> list[str]:
    y = s.shapes.output
    start, a = sliced(o, s.shapes.inputs[0])
    x = moved(s.x, start)
    return [looped(s.tables, "COSTSIM_COPY", y, a, None, steps(y), x, "NULL", s.output)]


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
        "log_softmax": _softmax,
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
