"""What a step in 8 bits computes, in numpy: the definition that the C code is held to, bit by bit.

Integers are exact. Floats are single precision, in the order of the C kernels. With fused
multiply-adds, as a Cortex-M7 has them, a multiply-accumulate is rounded once (`fused_sum`).
"""

from collections.abc import Mapping
from math import prod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from costsim.base.errors import UnsupportedOperator
from costsim.c.emission.float32 import (
    DITHER_STRIDE,
    Floats,
    dither,
    exponential,
    fused_sum,
    logarithm,
)
from costsim.c.emission.memory import Memory
from costsim.c.emission.options import EmissionOptions
from costsim.c.emission.parts import Block
from costsim.c.emission.quantised_writer import BOUNDS, mean_factor
from costsim.c.emission.quantization import Quantization, saturated
from costsim.c.emission.reference_classifier import ReferenceClassifier
from costsim.c.emission.windows import Pooling, Window
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
    ReLU,
    elements,
)
from costsim.ir.operators.pooling import Pool
from costsim.ir.program import Category, Direction, Operand, Operation, TrainingProgram

Integers: TypeAlias = NDArray[Any]
"""Of int8 and int32."""


class Reference:
    """Steps of `program` on the integers of its weights (`costsim.c.emission.integers`).

    `weights` are changed in place; `values` holds every call's integers of the last pass.
    """

    def __init__(
        self,
        program: TrainingProgram,
        weights: Mapping[str, Integers],
        quantization: Quantization,
        options: EmissionOptions,
        *,
        fused: bool = False,
    ) -> None:
        self.program, self.graph = program, program.graph
        self.weights, self.quantization, self.options = weights, quantization, options
        self.memory, self.fused = Memory(program), fused
        self.values: dict[str, Integers] = {}
        self.masks: dict[str, NDArray[np.bool_]] = {}
        self.chosen: dict[str, NDArray[np.intp]] = {}
        self.gradients: dict[int, Floats] = {}
        self.states: dict[int, Floats] = {}
        self.loss, self.steps = np.float32(0), 0
        self.classifier: ReferenceClassifier | None = None
        if options.class_means is not None:
            output = self.graph[self.graph.output]
            of, features = quantization.values[output.name], elements(output.shape[1:])
            self.classifier = ReferenceClassifier(options.class_means, of, features, fused)

    def features(self, images: Floats) -> Integers:
        """What the network returns for the images of one pass, `[N, D]`, in integers."""
        self._put(images)
        for op in self.program.operations[: self.program.loss_position]:
            self._run(op, np.zeros(0, np.int64))
        return self._value(self.graph.output).reshape(len(images), -1)

    def take_means(self, images: Floats, labels: NDArray[np.integer[Any]]) -> None:
        """Class means of these images, as the weights are now."""
        classifier, size = self.classifier, self.program.step.samples_a_pass
        assert classifier is not None
        classifier.begin(int(labels.max()) + 1)
        places = np.arange(-(-len(images) // size) * size) % len(images)
        rows = [self.features(images[part]) for part in np.split(places, len(places) // size)]
        classifier.add(np.concatenate(rows)[: len(images)], labels)
        classifier.end()

    def _put(self, images: Floats) -> None:
        given = self.graph[self.graph.input]
        a = self.quantization.values[given.name]
        self.values[given.name] = a.quantise(images).reshape(given.shape)

    def step(self, images: Floats, labels: NDArray[np.integer[Any]]) -> float:
        """One step over `images` [batch, ...]; the mean loss."""
        passes, size = self.program.step.passes, self.program.step.samples_a_pass
        late = self.program.step.keeps_gradients
        operations = self.program.operations
        after = [op for op in operations if late and op.direction is Direction.UPDATE]
        self.gradients = {}
        if passes > 1:
            for update in self.memory.updates:
                parameter = self.weights[update.parameter.name]
                zeros = np.zeros(parameter.shape, np.float32)
                self.gradients[self.memory.gradient(update)] = zeros
        total = np.float32(0)
        for number in range(passes):
            part = slice(number * size, (number + 1) * size)
            self._put(images[part])
            for op in operations[: len(operations) - len(after)]:
                self._run(op, labels[part])
            total = np.float32(total + self.loss)
        for op in after:
            self._run(op, labels)
        self.steps = (self.steps + 1) % 2**32
        return float(np.float32(total / np.float32(passes)))

    def _run(self, op: Operation, labels: NDArray[np.integer[Any]]) -> None:
        match op.direction:
            case Direction.FORWARD | Direction.RECOMPUTE:
                self._forward(self._call(op))
            case Direction.KEEP:
                pass
            case Direction.LOSS:
                self._loss(op, labels)
            case Direction.INPUT_GRADIENT:
                self.gradients[op.writes[0].buffer] = self._input_gradient(op)
            case Direction.WEIGHT_GRADIENT:
                self.gradients[op.writes[0].buffer] = self._weight_gradient(op)
            case Direction.BIAS_GRADIENT:
                self.gradients[op.writes[0].buffer] = self._bias_gradient(op)
            case Direction.ACCUMULATE:
                a, b = (self.gradients[read.buffer] for read in op.reads)
                self.gradients[op.writes[0].buffer] = a.reshape(b.shape) + b
            case Direction.UPDATE:
                self._update(op)

    def _mac(self, total: Floats, a: Floats, b: Floats) -> Floats:
        """`total + a * b`, rounded once or twice."""
        result: Floats = fused_sum(total, a, b) if self.fused else total + a * b
        return result

    def _call(self, op: Operation) -> Call:
        assert op.call is not None
        return self.graph[op.call]

    def _value(self, name: str) -> Integers:
        """A value; a view is that of its source."""
        call = self.graph[name]
        if call.operator.is_view:
            return self._value(call.inputs[0]).reshape(call.shape)
        return self.values[name]

    def _gradient(self, operand: Operand) -> Floats:
        assert operand.value is not None
        return self.gradients[operand.buffer].reshape(self.graph[operand.value].shape)

    # Forward.

    def _forward(self, call: Call) -> None:
        x, y = self.quantization.input_of(call), self.quantization.values[call.name]
        value = self._value(call.inputs[0])
        o = call.operator
        match o:
            case Convolution() | Linear():
                assert call.weight is not None
                scales = self.quantization.weight_scales[call.weight.name]
                factors = (np.float32(x.scale) * scales / np.float32(y.scale)).astype(np.float32)
                sums = self._sums(call, value.astype(np.int64) - x.zero)
                if call.bias is not None:
                    sums += self.weights[call.bias.name].astype(np.int64)[:, None, None, None]
                    sums = np.clip(sums, -(2**31), 2**31 - 1)
                scaled = sums.astype(np.float32) * factors[:, None, None, None]
                self.values[call.name] = saturated(scaled, y.zero).reshape(call.shape)
            case ReLU() | Clamp():
                low, high = BOUNDS[o](x)
                self.masks[call.name] = (value > low) & (value < high)
                self.values[call.name] = np.clip(value, low, high)
            case Add():
                other, b = self._value(call.inputs[1]), self.quantization.values[call.inputs[1]]
                parts = [
                    (v.astype(np.int32) - a.zero).astype(np.float32)
                    * (np.float32(a.scale) / np.float32(y.scale))
                    for v, a in ((value, x), (other, b))
                ]
                self.values[call.name] = saturated(parts[0] + parts[1], y.zero)
            case Mean():
                count = value.size // elements(call.shape)
                rows = value.reshape(-1, count).astype(np.int64) - x.zero
                factor = np.float32(mean_factor(x, y, count))
                means = rows.sum(1).astype(np.float32) * factor
                self.values[call.name] = saturated(means, y.zero).reshape(call.shape)
            case MaxPool():
                pool = Pooling(o, value.shape, call.shape)
                planes = value.reshape(-1, pool.pixels)
                at = [cell[planes[:, cell].argmax(1)] for cell, _ in pool.cells]
                self.chosen[call.name] = np.stack(at, 1)
                most = np.take_along_axis(planes, self.chosen[call.name], 1)
                self.values[call.name] = most.reshape(call.shape)
            case AveragePool() | AdaptiveAveragePool():
                pool = Pooling(o, value.shape, call.shape)
                planes = value.reshape(-1, pool.pixels).astype(np.int32) - x.zero
                ratio = np.float32(x.scale) / np.float32(y.scale)
                columns = [
                    planes[:, cell].sum(1).astype(np.float32) * ratio / np.float32(counted)
                    for cell, counted in pool.cells
                ]
                found = saturated(np.stack(columns, 1), y.zero)
                self.values[call.name] = found.reshape(call.shape)
            case _:
                raise UnsupportedOperator(f"{call.name}: {o.kind!r} has no reference in 8 bits")

    def _sums(self, call: Call, x: Integers) -> Integers:
        """Sums of products `[N, C_out, d, h, w]`: whole numbers that doubles hold exactly."""
        window = Window(self.graph, call)
        x = x.reshape(window.x_shape).astype(np.float64)
        weight = self.weights[self._weight(call)].astype(np.float64).reshape(window.weight_shape)
        sums = np.zeros(window.y_shape, np.float64)
        for t, tap in enumerate(np.ndindex(*window.kernel)):
            q, p = window.places(tap)
            if window.depthwise:
                of_channel = weight[:, 0, t][:, None, None, None]
                sums[(slice(None), slice(None), *q)] += (
                    of_channel * x[(slice(None), slice(None), *p)]
                )
                continue
            for group in range(window.groups):
                outs, ins = window.channels(group)
                part = x[(slice(None), ins, *p)]
                flat = part.reshape(*part.shape[:2], -1)
                products = weight[outs, :, t] @ flat
                sums[(slice(None), outs, *q)] += products.reshape(len(part), -1, *part.shape[2:])
        return sums.astype(np.int64)

    def _weight(self, call: Call) -> str:
        assert call.weight is not None
        return call.weight.name

    # Backward.

    def _loss(self, op: Operation, labels: NDArray[np.integer[Any]]) -> None:
        output = self.graph.output
        a = self.quantization.values[output]
        rows = self._value(output).astype(np.int32)
        rows = rows.reshape(rows.shape[0], -1)
        scale = np.float32(1.0 / (len(rows) * self.program.step.passes))
        if self.classifier is not None:
            self.loss, gradient = self.classifier.loss(rows, labels, scale)
            for write in op.writes:
                self.gradients[write.buffer] = gradient
            return
        most = rows.max(1, keepdims=True)
        scaled = (rows - most).astype(np.float32) * np.float32(a.scale)
        exponentials = exponential(scaled)
        sums = np.add.accumulate(exponentials, axis=1)[:, -1]
        terms = logarithm(sums) - scaled[np.arange(len(rows)), labels]
        self.loss = np.float32(np.add.accumulate(terms)[-1] / np.float32(len(rows)))
        if op.writes:
            shares = exponentials / sums[:, None]
            shares[np.arange(len(rows)), labels] -= np.float32(1)
            self.gradients[op.writes[0].buffer] = shares * scale

    def _input_gradient(self, op: Operation) -> Floats:
        call = self._call(op)
        dy = self._gradient(op.reads[0])
        match call.operator:
            case Convolution() | Linear():
                return self._spread(call, dy)
            case ReLU() | Clamp():
                return dy * self.masks[call.name].astype(np.float32)
            case Mean():
                shape = self.graph[call.inputs[0]].shape
                count = prod(shape) // dy.size
                flat = (dy / np.float32(count)).reshape(-1, 1)
                return np.repeat(flat, count, 1).reshape(shape)
            case Pool() as pool:
                return self._unpooled(call, pool, dy)
            case o:
                raise UnsupportedOperator(f"{call.name}: {o.kind!r} has no reference in 8 bits")

    def _unpooled(self, call: Call, o: Pool, dy: Floats) -> Floats:
        """In the order of the outputs, which several windows may give to one input."""
        shape = self.graph[call.inputs[0]].shape
        pool = Pooling(o, shape, call.shape)
        dy = dy.reshape(-1, len(pool.cells))
        dx = np.zeros((len(dy), pool.pixels), np.float32)
        rows = np.arange(len(dy))
        for q, (cell, counted) in enumerate(pool.cells):
            if call.name in self.chosen:
                dx[rows, self.chosen[call.name][:, q]] += dy[:, q]
            else:
                dx[:, cell] += (dy[:, q] / np.float32(counted))[:, None]
        return dx.reshape(shape)

    def _spread(self, call: Call, dy: Floats) -> Floats:
        window = Window(self.graph, call)
        scales = self.quantization.weight_scales[self._weight(call)]
        weight = self.weights[self._weight(call)].reshape(-1).astype(np.float32)
        dy = dy.reshape(window.y_shape)
        dx = np.zeros(window.x_shape, np.float32)
        for block in self.memory.blocks(call):
            outs, ins = list(block.outputs), list(block.inputs)
            values = _dense(block, weight, window.depthwise)
            values = values * scales[outs][:, None, None]
            taps = list(enumerate(np.ndindex(*window.kernel)))
            for t, tap in reversed(taps) if window.turns else taps:
                q, p = window.places(tap)
                part = dy[:, outs][(slice(None), slice(None), *q)]
                index: Any = (slice(None), ins, *p)
                for m in range(1 if window.depthwise else len(outs)):
                    of = slice(None) if window.depthwise else slice(m, m + 1)
                    weights = values[of, 0, t] if window.depthwise else values[m, :, t]
                    weights = weights[None, :, None, None, None]
                    dx[index] = self._mac(dx[index], weights, part[:, of])
        return dx.reshape(self.graph[call.inputs[0]].shape)

    def _weight_gradient(self, op: Operation) -> Floats:
        """Of the whole weight, as far as it is selected; 0 elsewhere."""
        call = self._call(op)
        window, x_of = Window(self.graph, call), self.quantization.input_of(call)
        x = (self._value(call.inputs[0]).astype(np.int32) - x_of.zero).astype(np.float32)
        x, dy = x.reshape(window.x_shape), self._gradient(op.reads[0]).reshape(window.y_shape)
        dw = np.zeros(prod(window.weight_shape), np.float32)
        for block in self.memory.blocks(call):
            if not block.updated:
                continue
            outs, ins = dy[:, list(block.outputs)], x[:, list(block.inputs)]
            sums = _dense(block, dw, window.depthwise)
            for t, tap in enumerate(np.ndindex(*window.kernel)):
                q, p = window.places(tap)
                g, v = outs[(slice(None), slice(None), *q)], ins[(slice(None), slice(None), *p)]
                total = sums[:, :, t]
                for n, *place in np.ndindex(len(g), *g.shape[2:]):
                    at = (n, slice(None), *place)
                    beside = v[at][:, None] if window.depthwise else v[at][None, :]
                    total = self._mac(total, g[at][:, None], beside)
                sums[:, :, t] = total
            dw[block.places] = (sums * np.float32(x_of.scale)).reshape(-1)
        return dw.reshape(self.weights[self._weight(call)].shape)

    def _bias_gradient(self, op: Operation) -> Floats:
        call = self._call(op)
        dy = self._gradient(op.reads[0])
        assert call.bias is not None
        if call.operator.bias_dimensions(self.graph.shapes(call)) == (dy.ndim - 1,):
            rows = dy.reshape(-1, call.bias.size)
        else:
            planes = dy.reshape(dy.shape[0], dy.shape[1], -1)
            rows = np.add.accumulate(planes, axis=2)[:, :, -1]
        total: Floats = np.add.accumulate(rows, axis=0)[-1]
        return total

    def _update(self, op: Operation) -> None:
        kind, layer = self.program.buffers[op.reads[0].buffer].name.split(":", 2)[1:]
        update = next(u for u in self.memory.updates if u.atom == (kind, layer))
        call = self.graph[self.graph.layers[layer].calls[0]]
        places = update.places
        change = self.gradients[op.reads[0].buffer].reshape(-1)[places]
        for read in op.reads:
            if self.program.buffers[read.buffer].category is Category.OPTIMIZER:
                state = self.states.get(read.buffer, np.zeros(len(places), np.float32))
                state = np.float32(self.options.momentum) * state + change
                self.states[read.buffer] = change = state
        change = np.float32(self.options.learning_rate) * change
        scales = self.quantization.weight_scales[self._weight(call)]
        stored = self.weights[update.parameter.name].reshape(-1)
        if kind == "bias":
            units = np.float32(self.quantization.input_of(call).scale) * scales
            limit = 2**22 - 1
            steps = np.rint(np.clip(change / units, -limit, limit)).astype(np.int64)
            stored[places] = np.clip(stored[places] - steps, -(2**31), 2**31 - 1)
        else:
            rows = places // (stored.size // len(scales))
            moved = stored[places].astype(np.float32) - change / scales[rows]
            first = self.steps * DITHER_STRIDE + update.offset_bytes
            numbers = (first + np.arange(len(places), dtype=np.uint64)).astype(np.uint32)
            stored[places] = saturated(moved + dither(numbers), 0)


def _dense(block: Block, weight: Floats, depthwise: bool) -> Floats:
    """A block's elements as `[outputs, inputs, taps]`."""
    inputs = 1 if depthwise else len(block.inputs)
    return weight[block.places].reshape(len(block.outputs), inputs, block.taps)
