"""The operations of a program in 8 bits as C: forward in integers, backward in floats."""

from dataclasses import dataclass
from math import prod

import numpy as np

from costsim.c.emission.arguments import (
    block_initialiser,
    convolution_window,
    lines_along,
    mean_kind,
    pooling_window,
)
from costsim.c.emission.float32 import DITHER_STRIDE
from costsim.c.emission.memory import Memory
from costsim.c.emission.operations import OperationWriter
from costsim.c.emission.options import EmissionOptions
from costsim.c.emission.quantization import HIGH, LOW, Affine, Quantization
from costsim.c.emission.tables import Tables
from costsim.c.emission.text import call, number
from costsim.ir.graph import Call
from costsim.ir.operators import (
    AdaptiveAveragePool,
    Add,
    AveragePool,
    Clamp,
    Convolution,
    Linear,
    MaxPool,
    Mean,
    Operator,
    ReLU,
    Shapes,
    elements,
)
from costsim.ir.operators.pooling import Pool
from costsim.ir.operators.reading import Reading
from costsim.ir.program import Category, Operand, Operation


class QuantisedWriter(OperationWriter):
    """Writes operations on 8-bit activations and weights, with gradients in floats."""

    def __init__(
        self,
        memory: Memory,
        tables: Tables,
        options: EmissionOptions,
        quantization: Quantization,
    ) -> None:
        super().__init__(memory, tables, options)
        self.quantization = quantization

    def _scales(self, c: Call) -> str:
        assert c.weight is not None
        return self.tables.floats(self.quantization.weight_scales[c.weight.name])

    def affine(self, value: str) -> Affine:
        """The representation of a value."""
        return self.quantization.values[value]

    def window(self, c: Call, inputs: int) -> str:
        """The window of a sum of products whose x has `inputs` channels in memory."""
        return WINDOW[c.operator](self.tables, self.graph.shapes(c), inputs)

    def weight_table(self, c: Call) -> tuple[str, int]:
        """The table of a weight's blocks, and how many there are."""
        blocks = self.memory.blocks(c)
        made = [block_initialiser(self.tables, b, self.memory.block_base(c, b)) for b in blocks]
        return self.tables.blocks(made), len(blocks)

    def _forward(self, op: Operation) -> list[str]:
        c = self._call(op)
        site = QuantisedSite(
            self,
            c,
            self.graph.shapes(c),
            tuple(self.memory.bytes_of(read) for read in op.reads[: len(c.inputs)]),
            self.memory.bytes_of(op.writes[0]),
            self.memory.buffer(op.writes[1].buffer) if len(op.writes) > 1 else "NULL",
            self.affine(c.inputs[0]),
            self.affine(c.name),
        )
        return QUANTISED_FORWARD[c.operator](site)

    def _keep(self, op: Operation) -> list[str]:
        (read,), (write,) = op.reads, op.writes
        assert read.value is not None
        assert write.channels is not None
        shape = self.graph[read.value].shape
        where = lines_along(shape, self.memory.kept_dimension(write.buffer))
        kept = self.tables.channels(write.channels)
        x, y = self.memory.bytes_of(read), self.memory.bytes_of(write)
        return [call("costsim_q_keep", *where, kept, len(write.channels), x, y)]

    def _loss(self, op: Operation) -> list[str]:
        shape, a = self.graph[self.graph.output].shape, self.affine(self.graph.output)
        rows = shape[0]
        scale = number(1.0 / (rows * self.program.step.passes))
        x = self.memory.bytes_of(op.reads[0])
        dx = self.memory.buffer(op.writes[0].buffer) if op.writes else "NULL"
        if self.options.class_means is not None:
            given = (rows, elements(shape) // rows, scale, dx)
            return [self._prototype_loss(self.options.class_means, op, given)]
        sizes = (rows, elements(shape) // rows, scale, number(a.scale), a.zero)
        return [
            f"costsim_loss = {call('costsim_q_cross_entropy', *sizes, x, 'costsim_labels', dx)}"
        ]

    def features(self, read: Operand) -> str:
        """What the model returned, as classifiers take it."""
        a = self.affine(self.graph.output)
        x = self.memory.bytes_of(read)
        return f"(const costsim_features){{NULL, {x}, {number(a.scale)}, {a.zero}}}"

    def _input_gradient(self, op: Operation) -> list[str]:
        c = self._call(op)
        if c.operator not in WINDOW:
            return super()._input_gradient(op)  # masks, means and sums know floats alone
        shapes = self.graph.shapes(c)
        inputs = shapes.inputs[0][c.operator.channel_axis(shapes, "input")]
        return [
            call(
                "costsim_q_convolution_input_gradient",
                self.window(c, inputs),
                *self.weight_table(c),
                int(c.operator.is_depthwise(shapes)),
                self._scales(c),
                self.memory.pointer(op.reads[0]),
                self.memory.buffer(op.writes[0].buffer),
            )
        ]

    def _weight_gradient(self, op: Operation) -> list[str]:
        c = self._call(op)
        shapes, x = self.graph.shapes(c), self.affine(c.inputs[0])
        read = next(r for r in op.reads if r.role == "kept input 0")
        kept = self.memory.kept_channels(read)
        axis = c.operator.channel_axis(shapes, "input")
        inputs = len(kept) if kept else shapes.inputs[0][axis]
        return [
            call(
                "costsim_q_convolution_weight_gradient",
                self.window(c, inputs),
                *self._gradient_blocks(c, kept),
                int(c.operator.is_depthwise(shapes)),
                number(x.scale),
                x.zero,
                self.memory.pointer(op.reads[0]),
                self.memory.bytes_of(read),
                self.memory.buffer(op.writes[0].buffer),
            )
        ]

    def _update(self, op: Operation) -> list[str]:
        gradient = self.memory.buffer(op.reads[0].buffer)
        kind, layer = self.program.buffers[op.reads[0].buffer].name.split(":", 2)[1:]
        by_category = {self.program.buffers[r.buffer].category: r for r in op.reads}
        weight = by_category[Category.UPDATED_WEIGHTS]
        state = by_category.get(Category.OPTIMIZER)
        pointer = "NULL" if state is None else self.memory.buffer(state.buffer)
        rates = ("costsim_learning_rate", number(self.options.momentum))
        c = self.graph[self.graph.layers[layer].calls[0]]
        scales = self._scales(c)
        if kind == "bias":
            unit = number(self.affine(c.inputs[0]).scale)
            where = f"(int32_t *){self.memory.buffer(weight.buffer)}"
            settings = (weight.bytes // 4, *rates, unit, scales)
            return [call("costsim_q_descend_bias", *settings, gradient, where, pointer)]
        taps = next(b.taps for b in self.memory.blocks(c))
        blocks = self._gradient_blocks(c, None)
        offset = self.memory.arena.offsets_bytes[weight.buffer]
        drawn = f"(uint32_t)costsim_steps * {DITHER_STRIDE:#x}u + {offset}u"
        settings_of_weight = (*blocks, taps, *rates, scales, drawn)
        where = self.memory.bytes_of(weight)
        return [call("costsim_q_descend", *settings_of_weight, gradient, where, pointer)]


def mean_factor(x: Affine, y: Affine, count: int) -> float:
    """What the sum of `count` elements is multiplied by."""
    return float(np.float32(x.scale) / (np.float32(count) * np.float32(y.scale)))


WINDOW: Reading[[Tables, Shapes, int], str] = Reading("8-bit window")
"""Of the operators that sum products: (tables, shapes, channels of x in memory) to its table."""


@WINDOW.of(Convolution)
def _sliding(o: Convolution, tables: Tables, shapes: Shapes, inputs: int) -> str:
    return convolution_window(o, tables, shapes, inputs)


@WINDOW.of(Linear)
def _of_rows(o: Linear, tables: Tables, shapes: Shapes, inputs: int) -> str:
    return tables.window((prod(shapes.output[:-1]), inputs, shapes.output[-1]), (1,), (1,))


BOUNDS: Reading[[Affine], tuple[int, int]] = Reading("bounds in 8 bits")
"""The integers that a value is cut off at, which is represented so."""
BOUNDS.of(ReLU)(lambda _o, a: (a.zero, HIGH))
BOUNDS.of(Clamp)(lambda o, a: (max(a.bound(o.minimum), LOW), min(a.bound(o.maximum), HIGH)))


@dataclass(frozen=True)
class QuantisedSite:
    """One forward call being emitted in 8 bits: its pointers are C expressions.

    `saved` is where the mask or the places go, "NULL" if they are not needed; `x` and `y` represent
    the first input and the output.
    """

    writer: QuantisedWriter
    call: Call
    shapes: Shapes
    inputs: tuple[str, ...]
    output: str
    saved: str
    x: Affine
    y: Affine

    @property
    def size(self) -> int:
        """Elements of the output."""
        return elements(self.shapes.output)

    @property
    def saved_bytes(self) -> str:
        """`saved` as bytes."""
        return self.saved if self.saved == "NULL" else f"(uint8_t *){self.saved}"


QUANTISED_FORWARD: Reading[[QuantisedSite], list[str]] = Reading("8-bit C kernel")
"""Every operator in `costsim.c.emission.quantization.QUANTISED` that computes something."""


@QUANTISED_FORWARD.of(Convolution, Linear)
def _products(o: Operator, s: QuantisedSite) -> list[str]:
    w, c = s.writer, s.call
    assert c.weight is not None
    scales = w.quantization.weight_scales[c.weight.name]
    factors = np.float32(s.x.scale) * scales / np.float32(s.y.scale)
    return [
        call(
            "costsim_q_convolution_forward",
            w.window(c, s.shapes.inputs[0][o.channel_axis(s.shapes, "input")]),
            *w.weight_table(c),
            int(o.is_depthwise(s.shapes)),
            f"(const int32_t *){w.memory.vector(c.bias.name)}" if c.bias else "NULL",
            w.tables.floats(factors.astype(np.float32)),
            s.x.zero,
            s.y.zero,
            s.inputs[0],
            s.output,
        )
    ]


@QUANTISED_FORWARD.of(ReLU, Clamp)
def _cut(o: Operator, s: QuantisedSite) -> list[str]:
    low, high = BOUNDS[o](s.x)
    if low <= LOW and high >= HIGH and s.saved == "NULL":
        # The convolution before has cut off all there is to: its integers end where the bounds are.
        same = s.inputs[0] == s.output
        return [] if same else [call("memcpy", s.output, s.inputs[0], s.size)]
    return [call("costsim_q_clamp", s.size, low, high, s.inputs[0], s.output, s.saved_bytes)]


@QUANTISED_FORWARD.of(Add)
def _add(o: Add, s: QuantisedSite) -> list[str]:
    b = s.writer.affine(s.call.inputs[1])
    a_factor, b_factor = (
        number(float(np.float32(v.scale) / np.float32(s.y.scale))) for v in (s.x, b)
    )
    zeros = (a_factor, s.x.zero, b_factor, b.zero, s.y.zero)
    return [call("costsim_q_add", s.size, *zeros, *s.inputs, s.output)]


@QUANTISED_FORWARD.of(Mean)
def _mean(o: Mean, s: QuantisedSite) -> list[str]:
    count = elements(s.shapes.inputs[0]) // s.size
    settings = (number(mean_factor(s.x, s.y, count)), s.x.zero, s.y.zero)
    return [call("costsim_q_mean", s.size, count, *settings, s.inputs[0], s.output)]


@QUANTISED_FORWARD.of(MaxPool)
def _max_pool(o: MaxPool, s: QuantisedSite) -> list[str]:
    window = pooling_window(o, s.writer.tables, s.shapes)
    return [call("costsim_q_max_pool", window, s.inputs[0], s.output, s.saved_bytes)]


@QUANTISED_FORWARD.of(AveragePool, AdaptiveAveragePool)
def _average_pool(o: Pool, s: QuantisedSite) -> list[str]:
    window = pooling_window(o, s.writer.tables, s.shapes)
    ratio = number(float(np.float32(s.x.scale) / np.float32(s.y.scale)))
    where = (window, mean_kind(o), ratio, s.x.zero, s.y.zero)
    return [call("costsim_q_average_pool", *where, s.inputs[0], s.output)]
