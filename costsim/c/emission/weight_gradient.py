"""Gradients of weights as C, one function an operator kind."""

from dataclasses import dataclass
from math import prod

from costsim.c.emission.arguments import convolution_kernel, convolution_window, layer_rows, planes
from costsim.c.emission.memory import Memory
from costsim.c.emission.tables import Tables
from costsim.c.emission.text import call, number
from costsim.ir.graph import Call
from costsim.ir.operators import BatchNorm, Convolution, GroupNorm, LayerNorm, Linear, Shapes
from costsim.ir.operators.reading import Reading


@dataclass(frozen=True)
class WeightSite:
    """One weight gradient being emitted: its pointers are C expressions.

    `blocks` are the table of what is updated of the weight and its length; `x` is the input, of
    which `inputs` channels are there; `saved` is "NULL" if not needed.
    """

    memory: Memory
    tables: Tables
    call: Call
    shapes: Shapes
    inputs: int
    blocks: tuple[str, int]
    dy: str
    x: str
    dw: str
    saved: str

    @property
    def pointers(self) -> tuple[str, str, str]:
        """What is read and what is written, in the order of all kernels."""
        return self.dy, self.x, self.dw


WEIGHT_GRADIENT: Reading[[WeightSite], list[str]] = Reading("C kernel of the weight gradient")
"""Every operator kind with selectable channels."""


@WEIGHT_GRADIENT.of(Convolution)
def _convolution(o: Convolution, s: WeightSite) -> list[str]:
    kernel = convolution_kernel(o, s.shapes)
    window = convolution_window(o, s.tables, s.shapes, s.inputs)
    return [call(f"costsim_{kernel}_weight_gradient", window, *s.blocks, *s.pointers)]


@WEIGHT_GRADIENT.of(Linear)
def _linear(o: Linear, s: WeightSite) -> list[str]:
    where = (prod(s.shapes.inputs[0][:-1]), s.inputs, s.shapes.output[-1])
    return [call("costsim_linear_weight_gradient", *where, *s.blocks, *s.pointers)]


@WEIGHT_GRADIENT.of(BatchNorm)
def _batch_norm(o: BatchNorm, s: WeightSite) -> list[str]:
    statistics = [s.memory.vector(buffer.name) for buffer in s.call.buffers]
    where = (*planes(s.shapes.output), s.inputs, number(o.eps), s.blocks[0])
    return [call("costsim_batch_norm_weight_gradient", *where, *statistics, *s.pointers)]


@WEIGHT_GRADIENT.of(LayerNorm)
def _layer_norm(o: LayerNorm, s: WeightSite) -> list[str]:
    where = (*layer_rows(o, s.shapes.inputs[0]), s.inputs, s.blocks[0], s.saved)
    return [call("costsim_layer_norm_weight_gradient", *where, *s.pointers)]


@WEIGHT_GRADIENT.of(GroupNorm)
def _group_norm(o: GroupNorm, s: WeightSite) -> list[str]:
    where = (*planes(s.shapes.output), o.groups, s.inputs, s.blocks[0], s.saved)
    return [call("costsim_group_norm_weight_gradient", *where, *s.pointers)]
