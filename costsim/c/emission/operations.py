"""Every operation of a program as C statements."""

import math

from costsim.base.errors import InputError
from costsim.c.emission.arguments import (
    block_initialiser,
    lines_along,
    planes,
)
from costsim.c.emission.forward import FORWARD, Site
from costsim.c.emission.input_gradient import INPUT_GRADIENT, GradientSite
from costsim.c.emission.memory import Memory
from costsim.c.emission.options import ClassMeans, EmissionOptions
from costsim.c.emission.tables import Tables
from costsim.c.emission.text import call, number
from costsim.c.emission.weight_gradient import WEIGHT_GRADIENT, WeightSite
from costsim.ir.graph import Call
from costsim.ir.operators import elements
from costsim.ir.program import Category, Direction, Operand, Operation


class OperationWriter:
    """Writes the statements of one operation after another; tables grow as it does."""

    def __init__(self, memory: Memory, tables: Tables, options: EmissionOptions) -> None:
        self.memory, self.tables, self.options = memory, tables, options
        self.program, self.graph = memory.program, memory.graph

    def write(self, op: Operation) -> list[str]:
        """The statements of `op`."""
        match op.direction:
            case Direction.FORWARD | Direction.RECOMPUTE:
                return self._forward(op)
            case Direction.KEEP:
                return self._keep(op)
            case Direction.LOSS:
                return self._loss(op)
            case Direction.INPUT_GRADIENT:
                return self._input_gradient(op)
            case Direction.WEIGHT_GRADIENT:
                return self._weight_gradient(op)
            case Direction.BIAS_GRADIENT:
                return self._bias_gradient(op)
            case Direction.ACCUMULATE:
                return self._accumulate(op)
            case Direction.UPDATE:
                return self._update(op)
            case Direction.SCORE:
                raise InputError(f"{op.name}: there is no C yet for programs that score")

    def _call(self, op: Operation) -> Call:
        assert op.call is not None
        return self.graph[op.call]

    def _forward(self, op: Operation) -> list[str]:
        c = self._call(op)
        pointers = [self.memory.pointer(read) for read in op.reads[: len(c.inputs)]]
        written = [self.memory.buffer(write.buffer) for write in op.writes]
        site = Site(
            self.memory,
            self.tables,
            c,
            self.graph.shapes(c),
            tuple(pointers),
            written[0],
            written[1] if len(written) > 1 else "NULL",
        )
        return FORWARD[c.operator](site)

    def _keep(self, op: Operation) -> list[str]:
        (read,), (write,) = op.reads, op.writes
        assert read.value is not None
        assert write.channels is not None
        shape = self.graph[read.value].shape
        where = lines_along(shape, self.memory.kept_dimension(write.buffer))
        kept = self.tables.channels(write.channels)
        x, y = self.memory.pointer(read), self.memory.buffer(write.buffer)
        return [call("costsim_keep", *where, kept, len(write.channels), x, y)]

    def _loss(self, op: Operation) -> list[str]:
        shape = self.graph[self.graph.output].shape
        rows = shape[0]
        scale = number(1.0 / (rows * self.program.step.passes))
        x = self.memory.pointer(op.reads[0])
        dx = self.memory.buffer(op.writes[0].buffer) if op.writes else "NULL"
        size = elements(shape) // rows
        if self.options.class_means is not None:
            return [self._prototype_loss(self.options.class_means, op, (rows, size, scale, dx))]
        arguments = (rows, size, scale, x, "costsim_labels", dx)
        return [f"costsim_loss = {call('costsim_cross_entropy', *arguments)}"]

    def _prototype_loss(
        self, classifier: ClassMeans, op: Operation, sizes: tuple[int, int, str, str]
    ) -> str:
        rows, size, scale, dx = sizes
        features = f"&{self.features(op.reads[0])}"
        where = (rows, "costsim_classes", size, scale, number(classifier.temperature), features)
        means = ("costsim_class_means", "costsim_labels", "costsim_likeness", dx)
        return f"costsim_loss = {call('costsim_prototype_loss', *where, *means)}"

    def features(self, read: Operand) -> str:
        """What the model returned, as classifiers take it."""
        return f"(const costsim_features){{{self.memory.pointer(read)}, NULL, 1.0f, 0}}"

    def _input_gradient(self, op: Operation) -> list[str]:
        c = self._call(op)
        kept = {
            int(read.role.split()[-1]): self.memory.pointer(read)
            for read in op.reads
            if read.role.startswith("kept input")
        }
        site = GradientSite(
            self.memory,
            self.tables,
            c,
            self.graph.shapes(c),
            op.input_index,
            self.memory.pointer(op.reads[0]),
            self.memory.buffer(op.writes[0].buffer),
            kept,
            self._found(op, "kept output"),
            self._found(op, "saved"),
            any(read.role == "into" for read in op.reads),
        )
        return INPUT_GRADIENT[c.operator](site)

    def _found(self, op: Operation, role: str) -> str:
        found = (self.memory.pointer(r) for r in op.reads if r.role.startswith(role))
        return next(found, "NULL")

    def _weight_gradient(self, op: Operation) -> list[str]:
        c = self._call(op)
        o, shapes = c.operator, self.graph.shapes(c)
        read = next(r for r in op.reads if r.role == "kept input 0")
        kept = self.memory.kept_channels(read)
        (x_shape,) = shapes.inputs
        inputs = len(kept) if kept else x_shape[o.channel_axis(shapes, "input")]
        site = WeightSite(
            self.memory,
            self.tables,
            c,
            shapes,
            inputs,
            self._gradient_blocks(c, kept),
            self.memory.pointer(op.reads[0]),
            self.memory.pointer(read),
            self.memory.buffer(op.writes[0].buffer),
            self._found(op, "saved"),
        )
        return WEIGHT_GRADIENT[o](site)

    def _gradient_blocks(self, c: Call, kept: tuple[int, ...] | None) -> tuple[str, int]:
        """The updated blocks of a weight; inputs are numbered as they lie in what was kept."""
        found = [block for block in self.memory.blocks(c) if block.updated]
        place = None if kept is None else {channel: i for i, channel in enumerate(kept)}
        return (
            self.tables.blocks([block_initialiser(self.tables, b, "NULL", place) for b in found]),
            len(found),
        )

    def _bias_gradient(self, op: Operation) -> list[str]:
        c = self._call(op)
        assert c.bias is not None
        dy, db = self.memory.pointer(op.reads[0]), self.memory.buffer(op.writes[0].buffer)
        along = c.operator.bias_dimensions(self.graph.shapes(c))
        rank = len(c.shape)
        if len(along) == rank:
            return [call("memcpy", db, dy, 4 * c.bias.size)]
        if along == tuple(range(rank - len(along), rank)):
            where: tuple[int, int, int] = (elements(c.shape) // c.bias.size, c.bias.size, 1)
        else:
            where = planes(c.shape)
        return [call("costsim_bias_gradient", *where, dy, db)]

    def _accumulate(self, op: Operation) -> list[str]:
        a, b = (self.memory.pointer(read) for read in op.reads)
        y = self.memory.buffer(op.writes[0].buffer)
        return [call("costsim_add", op.writes[0].bytes // 4, a, b, y)]

    def _update(self, op: Operation) -> list[str]:
        by_category: dict[Category, Operand] = {
            self.program.buffers[read.buffer].category: read for read in op.reads
        }
        gradient = self.memory.buffer(op.reads[0].buffer)
        weight = by_category[Category.UPDATED_WEIGHTS]
        rate, count = "costsim_learning_rate", weight.bytes // 4
        pointers = [gradient, self.memory.buffer(weight.buffer)]
        if Category.OPTIMIZER in by_category:
            pointers.append(self.memory.buffer(by_category[Category.OPTIMIZER].buffer))
        options = self.options
        match self.program.step.optimizer:
            case "sgd":
                return [call("costsim_sgd", count, rate, *pointers)]
            case "momentum":
                settings = number(options.momentum)
                return [call("costsim_momentum", count, rate, settings, *pointers)]
            case "adam":
                values = (options.betas[1], *map(math.log, options.betas), options.eps)
                constants = [number(value) for value in values]
                step = "costsim_steps + 1"
                return [call("costsim_adam", count, rate, *constants, step, *pointers)]
