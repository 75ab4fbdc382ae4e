"""The operations of a program in 8 bits as C: forward in integers, backward in floats."""

from math import prod
from typing import Any

import numpy as np

from costsim.c.emission.arguments import (
    block_initialiser,
    convolution_window,
    lines_along,
    mean_kind,
    pooling_window,
)
from costsim.c.emission.memory import Memory
from costsim.c.emission.operations import OperationWriter
from costsim.c.emission.options import EmissionOptions
from costsim.c.emission.parts import is_depthwise
from costsim.c.emission.quantization import HIGH, LOW, Affine, Quantization
from costsim.c.emission.tables import Tables
from costsim.c.emission.text import call, number
from costsim.ir.graph import Call
from costsim.ir.operators import Shapes, elements
from costsim.ir.program import Category, Operation


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

    def _affine(self, value: str) -> Affine:
        return self.quantization.values[value]

    def _window(self, c: Call, shapes: Shapes, inputs: int) -> str:
        if c.operator.kind == "convolution":
            return convolution_window(c.operator, self.tables, shapes, inputs)
        rows = prod(shapes.output[:-1])
        return self.tables.window((rows, inputs, shapes.output[-1]), (1,), (1,))

    def _weight_table(self, c: Call) -> tuple[str, int]:
        blocks = self.memory.blocks(c)
        made = [block_initialiser(self.tables, b, self.memory.block_base(c, b)) for b in blocks]
        return self.tables.blocks(made), len(blocks)

    def _forward(self, op: Operation) -> list[str]:
        c = self._call(op)
        o: Any = c.operator
        shapes, size = self.graph.shapes(c), elements(c.shape)
        inputs = [self.memory.bytes_of(read) for read in op.reads[: len(c.inputs)]]
        output = self.memory.bytes_of(op.writes[0])
        saved = self.memory.buffer(op.writes[1].buffer) if len(op.writes) > 1 else "NULL"
        x, y = self._affine(c.inputs[0]), self._affine(c.name)
        match o.kind:
            case "convolution" | "linear":
                assert c.weight is not None
                axis = 1 if o.kind == "convolution" else -1
                scales = self.quantization.weight_scales[c.weight.name]
                factors = np.float32(x.scale) * scales / np.float32(y.scale)
                bias = f"(const int32_t *){self.memory.vector(c.bias.name)}" if c.bias else "NULL"
                return [
                    call(
                        "costsim_q_convolution_forward",
                        self._window(c, shapes, shapes.inputs[0][axis]),
                        *self._weight_table(c),
                        int(is_depthwise(c, shapes)),
                        bias,
                        self.tables.floats(factors.astype(np.float32)),
                        x.zero,
                        y.zero,
                        inputs[0],
                        output,
                    )
                ]
            case "relu" | "clamp":
                low, high = bounds(o, x)
                mask = saved if saved == "NULL" else f"(uint8_t *){saved}"
                return [call("costsim_q_clamp", size, low, high, inputs[0], output, mask)]
            case "add":
                b = self._affine(c.inputs[1])
                a_factor, b_factor = (
                    number(float(np.float32(v.scale) / np.float32(y.scale))) for v in (x, b)
                )
                zeros = (a_factor, x.zero, b_factor, b.zero, y.zero)
                return [call("costsim_q_add", size, *zeros, *inputs, output)]
            case "mean":
                count = elements(shapes.inputs[0]) // size
                settings = (number(mean_factor(x, y, count)), x.zero, y.zero)
                return [call("costsim_q_mean", size, count, *settings, inputs[0], output)]
            case "max_pool":
                window = pooling_window(o, self.tables, shapes)
                places = saved if saved == "NULL" else f"(uint8_t *){saved}"
                return [call("costsim_q_max_pool", window, inputs[0], output, places)]
            case "average_pool" | "adaptive_average_pool":
                window = pooling_window(o, self.tables, shapes)
                ratio = number(float(np.float32(x.scale) / np.float32(y.scale)))
                where = (window, mean_kind(o), ratio, x.zero, y.zero)
                return [call("costsim_q_average_pool", *where, inputs[0], output)]
        raise AssertionError(f"{o.kind} has no 8-bit kernel")

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
        shape, a = self.graph[self.graph.output].shape, self._affine(self.graph.output)
        rows = shape[0]
        scale = number(1.0 / (rows * self.program.step.passes))
        x = self.memory.bytes_of(op.reads[0])
        dx = self.memory.buffer(op.writes[0].buffer) if op.writes else "NULL"
        sizes = (rows, elements(shape) // rows, scale, number(a.scale), a.zero)
        return [
            f"costsim_loss = {call('costsim_q_cross_entropy', *sizes, x, 'costsim_labels', dx)}"
        ]

    def _input_gradient(self, op: Operation) -> list[str]:
        c = self._call(op)
        if c.operator.kind not in ("convolution", "linear"):
            return super()._input_gradient(op)  # masks, means and sums know floats alone
        shapes = self.graph.shapes(c)
        inputs = shapes.inputs[0][1 if c.operator.kind == "convolution" else -1]
        return [
            call(
                "costsim_q_convolution_input_gradient",
                self._window(c, shapes, inputs),
                *self._weight_table(c),
                int(is_depthwise(c, shapes)),
                self._scales(c),
                self.memory.pointer(op.reads[0]),
                self.memory.buffer(op.writes[0].buffer),
            )
        ]

    def _weight_gradient(self, op: Operation) -> list[str]:
        c = self._call(op)
        shapes, x = self.graph.shapes(c), self._affine(c.inputs[0])
        read = next(r for r in op.reads if r.role == "kept input 0")
        kept = self.memory.kept_channels(read)
        axis = c.operator.channel_axis(shapes, "input")
        inputs = len(kept) if kept else shapes.inputs[0][axis]
        return [
            call(
                "costsim_q_convolution_weight_gradient",
                self._window(c, shapes, inputs),
                *self._gradient_blocks(c, kept),
                int(is_depthwise(c, shapes)),
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
            unit = number(self._affine(c.inputs[0]).scale)
            where = f"(int32_t *){self.memory.buffer(weight.buffer)}"
            settings = (weight.bytes // 4, *rates, unit, scales)
            return [call("costsim_q_descend_bias", *settings, gradient, where, pointer)]
        taps = next(b.taps for b in self.memory.blocks(c))
        blocks = self._gradient_blocks(c, None)
        settings_of_weight = (*blocks, taps, *rates, scales)
        where = self.memory.bytes_of(weight)
        return [call("costsim_q_descend", *settings_of_weight, gradient, where, pointer)]


def bounds(o: Any, a: Affine) -> tuple[int, int]:
    """What a ReLU or a clamp cuts a value off at."""
    if o.kind == "relu":
        return a.zero, HIGH
    return max(a.bound(o.minimum), LOW), min(a.bound(o.maximum), HIGH)


def mean_factor(x: Affine, y: Affine, count: int) -> float:
    """What the sum of `count` elements is multiplied by."""
    return float(np.float32(x.scale) / (np.float32(count) * np.float32(y.scale)))
