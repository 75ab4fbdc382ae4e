"""Where a sliding kernel reads and writes, as slices and places: of convolutions and of pools.

All have three spatial dimensions here; those that an operator lacks are of size 1.
"""

from math import prod

import numpy as np
from numpy.typing import NDArray

from costsim.ir.graph import Call, LayerGraph
from costsim.ir.operators import Convolution, Linear, Shape
from costsim.ir.operators.pooling import Pool, PoolWindow

SPATIAL = 3
TURNED = 49
"""Taps of the largest depthwise kernel that is turned round (`COSTSIM_TURNED`)."""


class Window:
    """The window of a convolution, or of a linear layer as one of single pixels."""

    def __init__(self, graph: LayerGraph, call: Call) -> None:
        shapes = graph.shapes(call)
        assert shapes.weight is not None
        (x,), y, o = shapes.inputs, shapes.output, call.operator
        self.depthwise = o.is_depthwise(shapes)
        self.groups = o.weight_groups
        if isinstance(o, Linear):
            x, y = (prod(x[:-1]), x[-1]), (prod(y[:-1]), y[-1])
        self.x_shape, self.y_shape = _filled(x), _filled(y)
        self.kernel = _spatial(shapes.weight[2:])
        self.weight_shape = (*shapes.weight[:2], prod(self.kernel))
        strides = o if isinstance(o, Convolution) else Convolution((), (), (), 1)
        self.stride, self.dilation = _spatial(strides.stride), _spatial(strides.dilation)
        self.padding = _spatial(strides.padding, 0)
        # Then the kernel is turned round, and the last tap's product comes first (`costsim_turns`).
        small, plain = prod(self.kernel) <= TURNED, {1} in ({*self.stride}, {*self.dilation})
        self.turns = self.depthwise and small and plain

    def channels(self, group: int) -> tuple[slice, slice]:
        """The output and input channels of a group."""
        outs, ins = self.y_shape[1] // self.groups, self.x_shape[1] // self.groups
        return slice(group * outs, (group + 1) * outs), slice(group * ins, (group + 1) * ins)

    def places(self, tap: tuple[int, ...]) -> tuple[list[slice], list[slice]]:
        """For one tap: the output positions whose input is there, and those inputs."""
        outputs, inputs = [], []
        for d, t in enumerate(tap):
            size, count, stride = self.x_shape[2 + d], self.y_shape[2 + d], self.stride[d]
            start = t * self.dilation[d] - self.padding[d]
            inside = [q for q in range(count) if 0 <= start + q * stride < size]
            low, high = (inside[0], inside[-1] + 1) if inside else (0, 0)
            outputs.append(slice(low, high))
            first = start + low * stride
            stop = first + (high - low - 1) * stride + 1 if inside else 0
            inputs.append(slice(first if inside else 0, stop, stride))
        return outputs, inputs


class Pooling:
    """The windows of a pool: of each output the inputs it reads, and how many it counts as."""

    def __init__(self, operator: Pool, x: Shape, y: Shape) -> None:
        window = operator.window
        rank = window.rank
        size, out = _spatial(x[len(x) - rank :]), _spatial(y[len(y) - rank :])
        self.pixels = prod(size)
        sides = [
            [_taps(window, d - (SPATIAL - rank), q, size[d], out[d]) for q in range(out[d])]
            for d in range(SPATIAL)
        ]
        self.cells: list[tuple[NDArray[np.intp], int]] = []
        for place in np.ndindex(*out):
            (i, a), (j, b), (k, c) = (sides[d][q] for d, q in enumerate(place))
            grid = (np.array(i)[:, None, None] * size[1] + np.array(j)[:, None]) * size[2]
            self.cells.append(((grid + np.array(k)).reshape(-1), a * b * c))


def _taps(w: PoolWindow, d: int, q: int, size: int, out: int) -> tuple[list[int], int]:
    """Along one dimension (below 0: one that is not there): the inputs, and how many they count."""
    if d < 0:
        return [0], 1
    if not w.kernel:
        found = list(range(q * size // out, -(-(q + 1) * size // out)))
        return found, len(found)
    start, reach = q * w.stride[d] - w.padding[d], w.dilation[d] if w.dilation else 1
    taps = [start + t * reach for t in range(w.kernel[d])]
    found = [p for p in taps if 0 <= p < size]
    counted = sum(p < size + w.padding[d] for p in taps)
    return found, counted if w.counts_padding else len(found)


def _spatial(values: Shape, empty: int = 1) -> Shape:
    return (*(empty,) * (SPATIAL - len(values)), *values)


def _filled(shape: Shape) -> Shape:
    return (*shape[:2], *_spatial(shape[2:]))
