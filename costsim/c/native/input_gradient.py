"""Input gradients as records, one function an operator kind; None for what has no kernel here."""

from math import prod

from costsim.c.native.draft import Draft, window_of
from costsim.c.native.forward import is_pixel_mean, is_product
from costsim.c.native.record import Flag, Kind, Place
from costsim.c.native.site import IMAGES, Site, pixels
from costsim.ir.operators import Clamp, Convolution, Linear, Mean, ReLU, elements
from costsim.ir.operators.reading import Reading

MOST_TAPS = 256
"""Through which one pixel may be seen: `kernels/depthwise.c` has so many places."""

INPUT_GRADIENT: Reading[[Site], Draft | None] = Reading("native kernel of the input gradient")
"""Operators whose input gradient has a native kernel, for some shapes at least."""


def _product(s: Site) -> Draft:
    """Rows of the gradient times the weight `[C_out, C_in]`."""
    weight = s.call.weight
    assert weight is not None
    rows, columns = pixels(s.shapes.inputs[0])
    # What is trained would have to be packed again; what is not is faster in order.
    as_it_is = s.is_trained and s.may_be_read_as_it_is(columns)
    tensor = s.weights.tensors[weight.name]
    address = int(tensor.ctypes.data) if as_it_is else s.weights.plain(weight.name)
    return Draft(
        Kind.PRODUCT,
        {Place.X: s.op.reads[0].buffer, Place.Y: s.out},
        {Place.WEIGHTS: address},
        flags=Flag.UNPACKED if as_it_is else Flag(0),
        rows=rows,
        columns=columns,
        depth=weight.shape[0],
    )


@INPUT_GRADIENT.of(Linear)
def _linear(o: Linear, s: Site) -> Draft | None:
    return None if len(s.shapes.output) == IMAGES else _product(s)


@INPUT_GRADIENT.of(Convolution)
def _convolution(o: Convolution, s: Site) -> Draft | None:
    shapes, weight = s.shapes, s.call.weight
    assert weight is not None
    if is_product(o, shapes):
        return _product(s)
    if len(shapes.output) != IMAGES or not o.is_depthwise(shapes):
        return None
    buffers = {Place.X: s.op.reads[0].buffer, Place.Y: s.out}
    rows, columns = pixels(shapes.inputs[0])
    sizes = {"kernel": weight.shape[2:], "stride": o.stride, "dilation": o.dilation}
    turned = tuple(
        spread * (taps - 1) - pad
        for spread, taps, pad in zip(o.dilation, weight.shape[2:], o.padding, strict=True)
    )
    if set(o.stride) == {1} and min(turned) >= 0:
        window = window_of(shapes.output, shapes.inputs[0], padding=turned, **sizes)
        address = s.weights.taps(weight.name, turned=True)
        kind = Kind.DEPTHWISE
    elif prod(weight.shape[2:]) <= MOST_TAPS:
        window = window_of(shapes.inputs[0], shapes.output, padding=o.padding, **sizes)
        address = s.weights.taps(weight.name)
        kind = Kind.DEPTHWISE_SPREAD
    else:
        return None
    return Draft(kind, buffers, {Place.WEIGHTS: address}, rows=rows, columns=columns, window=window)


def _masked(s: Site) -> Draft:
    saved = next(read.buffer for read in s.op.reads if read.role.startswith("saved"))
    return Draft(
        Kind.ACTIVATION,
        {Place.X: s.op.reads[0].buffer, Place.MASK_IN: saved, Place.Y: s.out},
        count=elements(s.shapes.output),
    )


INPUT_GRADIENT.of(ReLU, Clamp)(lambda _o, s: _masked(s))


@INPUT_GRADIENT.of(Mean)
def _mean(o: Mean, s: Site) -> Draft | None:
    (x,) = s.shapes.inputs
    if not is_pixel_mean(o, s.shapes):
        return None
    return Draft(
        Kind.MEAN_SPREAD,
        {Place.X: s.op.reads[0].buffer, Place.Y: s.out},
        rows=x[0],
        columns=x[1],
        depth=prod(x[2:]),
    )
