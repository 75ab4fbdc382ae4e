"""Forward calls as records, one function an operator kind; None for what has no kernel here."""

from math import prod

from costsim.c.native.draft import Draft, window_of
from costsim.c.native.record import Flag, Kind, Place
from costsim.c.native.site import IMAGES, Site, pixels
from costsim.ir.operators import Add, Clamp, Convolution, Linear, Mean, ReLU, Shapes, elements
from costsim.ir.operators.reading import Reading

MOST_CHANNELS = 4096
"""Of a dense convolution's input: `kernels/convolution.c` has so many zeros for its borders."""

FORWARD: Reading[[Site], Draft | None] = Reading("native kernel")
"""Operators whose forward call has a native kernel, for some shapes at least."""


def is_product(o: Convolution, shapes: Shapes) -> bool:
    """Whether a convolution of images is a product of its weight with every pixel."""
    assert shapes.weight is not None
    once = prod(shapes.weight[2:]) == 1 and set(o.stride) == {1} and not any(o.padding)
    return once and o.groups == 1 and len(shapes.output) == IMAGES


@FORWARD.of(Convolution)
def _convolution(o: Convolution, s: Site) -> Draft | None:
    shapes, weight = s.shapes, s.call.weight
    assert weight is not None
    if len(shapes.output) != IMAGES:
        return None
    buffers = {Place.X: s.op.reads[0].buffer, Place.Y: s.out}
    rows, columns = pixels(shapes.output)
    window = window_of(
        shapes.inputs[0],
        shapes.output,
        kernel=weight.shape[2:],
        stride=o.stride,
        padding=o.padding,
        dilation=o.dilation,
    )
    if is_product(o, shapes):
        kind, depth, address = Kind.PRODUCT, weight.shape[1], s.weights.transposed(weight.name)
    elif o.is_depthwise(shapes):
        kind, depth, address = Kind.DEPTHWISE, 1, s.weights.taps(weight.name)
    elif o.groups == 1 and shapes.inputs[0][1] <= MOST_CHANNELS:
        kind, depth = Kind.CONVOLUTION, prod(weight.shape[1:])
        address = s.weights.unfolded(weight.name)
    else:
        return None
    return Draft(
        kind,
        buffers,
        {Place.WEIGHTS: address, **s.bias()},
        rows=rows,
        columns=columns,
        depth=depth,
        window=window,
    )


@FORWARD.of(Linear)
def _linear(o: Linear, s: Site) -> Draft | None:
    weight = s.call.weight
    assert weight is not None
    if len(s.shapes.output) == IMAGES:
        return None
    rows, columns = pixels(s.shapes.output)
    return Draft(
        Kind.PRODUCT,
        {Place.X: s.op.reads[0].buffer, Place.Y: s.out},
        {Place.WEIGHTS: s.weights.transposed(weight.name), **s.bias()},
        rows=rows,
        columns=columns,
        depth=weight.shape[1],
    )


def _activation(s: Site, flags: Flag, low: float = 0.0, high: float = 0.0) -> Draft:
    return Draft(
        Kind.ACTIVATION,
        {Place.X: s.op.reads[0].buffer, Place.Y: s.out, **s.saved_out},
        flags=flags,
        count=elements(s.shapes.output),
        low=low,
        high=high,
    )


@FORWARD.of(ReLU)
def _relu(o: ReLU, s: Site) -> Draft:
    return _activation(s, Flag.CLAMPS_LOW)


@FORWARD.of(Clamp)
def _clamp(o: Clamp, s: Site) -> Draft:
    flags = Flag.CLAMPS_LOW | Flag.CLAMPS_HIGH
    if o.gradient_at_bounds:
        flags |= Flag.AT_BOUNDS
    return _activation(s, flags, o.minimum, o.maximum)


@FORWARD.of(Add)
def _add(o: Add, s: Site) -> Draft | None:
    if any(shape != s.shapes.output for shape in s.shapes.inputs):
        return None
    one, other = (read.buffer for read in s.op.reads)
    return Draft(
        Kind.ADD,
        {Place.X: one, Place.ADDED: other, Place.Y: s.out},
        count=elements(s.shapes.output),
    )


def is_pixel_mean(o: Mean, shapes: Shapes) -> bool:
    """Whether a mean is over the pixels of images."""
    (x,) = shapes.inputs
    return len(x) == IMAGES and sorted(d % IMAGES for d in o.dimensions) == [2, 3]


@FORWARD.of(Mean)
def _mean(o: Mean, s: Site) -> Draft | None:
    (x,) = s.shapes.inputs
    if not is_pixel_mean(o, s.shapes):
        return None
    return Draft(
        Kind.MEAN,
        {Place.X: s.op.reads[0].buffer, Place.Y: s.out},
        rows=x[0],
        columns=x[1],
        depth=prod(x[2:]),
    )
