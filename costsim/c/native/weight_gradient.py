"""Gradients of weights as records, one function an operator kind; None where there is no kernel."""

from costsim.c.native.draft import Draft, window_of
from costsim.c.native.forward import is_product
from costsim.c.native.record import Kind, Place
from costsim.c.native.site import IMAGES, Site, pixels
from costsim.ir.operators import Axis, Convolution, Linear
from costsim.ir.operators.reading import Reading
from costsim.ir.program import Category, Direction

MOST_KERNEL_WIDTH = 12
"""Of a depthwise weight: `kernels/weight_gradient.c` has so many sums."""

WEIGHT_GRADIENT: Reading[[Site], Draft | None] = Reading("native kernel of the weight gradient")
"""Operators whose weight gradient has a native kernel, for some shapes at least."""


def _axis(s: Site) -> Axis:
    assert s.call.layer is not None
    return s.program.plan.by_layer[s.call.layer].axis


def _kept(s: Site) -> tuple[int, tuple[int, ...] | None]:
    """The buffer of the call's input, and the channels that were kept of it; None for all."""
    read = next(read for read in s.op.reads if read.role == "kept input 0")
    if s.program.buffers[read.buffer].category is not Category.KEPT_CHANNELS:
        return read.buffer, None
    for op in s.program.operations:
        if op.direction is Direction.KEEP and op.writes[0].buffer == read.buffer:
            return read.buffer, op.writes[0].channels
    return read.buffer, None


def _product(s: Site) -> Draft | None:
    """Selected columns of the gradient times the input, or the gradient times what was kept."""
    (rows, c_out), (_, c_in) = pixels(s.shapes.output), pixels(s.shapes.inputs[0])
    (x, kept), channels, axis = _kept(s), s.op.channels, _axis(s)
    assert channels is not None
    if axis == "input":
        if kept is None and len(channels) == c_in:
            kept = channels
        if kept != channels:
            return None
        c_in, channels = len(channels), tuple(range(c_out))
    elif kept is not None:
        return None
    return Draft(
        Kind.WEIGHT_PRODUCT,
        {Place.X: s.op.reads[0].buffer, Place.WEIGHTS: x, Place.Y: s.out},
        {Place.LIST: s.lists.address(channels)},
        rows=len(channels),
        columns=c_in,
        depth=rows,
        count=c_out,
    )


@WEIGHT_GRADIENT.of(Linear)
def _linear(o: Linear, s: Site) -> Draft | None:
    return None if len(s.shapes.output) == IMAGES or s.reads_parameter() else _product(s)


@WEIGHT_GRADIENT.of(Convolution)
def _convolution(o: Convolution, s: Site) -> Draft | None:
    shapes, weight, channels = s.shapes, s.call.weight, s.op.channels
    assert weight is not None
    assert channels is not None
    if len(shapes.output) != IMAGES or s.reads_parameter():
        return None
    if is_product(o, shapes):
        return _product(s)
    x, kept = _kept(s)
    if not o.is_depthwise(shapes) or weight.shape[3] > MOST_KERNEL_WIDTH:
        return None
    if kept not in (None, channels):
        return None
    window = window_of(
        shapes.inputs[0],
        shapes.output,
        kernel=weight.shape[2:],
        stride=o.stride,
        padding=o.padding,
        dilation=o.dilation,
    )
    return Draft(
        Kind.DEPTHWISE_WEIGHT,
        {Place.X: s.op.reads[0].buffer, Place.WEIGHTS: x, Place.Y: s.out},
        {Place.LIST: s.lists.address(channels)},
        rows=len(channels),
        depth=shapes.inputs[0][1] if kept is None else len(channels),
        window=window,
    )
