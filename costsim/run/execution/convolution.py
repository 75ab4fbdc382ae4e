"""Convolutions: the kernels of a call chosen before the first step, not at each.

A training program runs the same call on the same shapes again and again. What can be decided once
is: which kernel, the views it works on, the settings. What is left at run time is little more
than the kernel itself, which is what counts where images are small.
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from math import prod
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from costsim.ir.operators import Convolution, Shape, Shapes
from costsim.run.execution.layout import RANK
from costsim.run.execution.selection import Channels, Selection

aten: Any = torch.ops.aten

OneToOne: TypeAlias = Callable[[Tensor], Tensor]

MANY_PIXELS = 64
"""From so many on, a product a sample is faster than one convolution of all samples, and turning
a depthwise kernel round pays."""

MANY_TAPS = 9
"""Depthwise kernels with more are differentiated as `_depthwise_by_convolution`."""


def is_product(o: Convolution, weight: Tensor) -> bool:
    """Whether a convolution is a product of its weight with every pixel of the input."""
    pointwise = prod(weight.shape[2:]) == 1 and o.groups == 1
    return pointwise and set(o.stride) == {1} and not any(o.padding)


def rows(shape: Shape) -> OneToOne:
    """Views images of `shape`, channels last in memory, as pixels [N * H * W, C]."""
    n, c, *spatial = shape
    size, stride = (n * prod(spatial), c), (c, 1)
    return lambda x: x.as_strided(size, stride)


def images(shape: Shape) -> OneToOne:
    """The inverse of `rows`."""
    n, c, height, width = shape
    stride = (height * width * c, 1, width * c, c)
    return lambda x: x.as_strided((n, c, height, width), stride)


def matrix(weight: Tensor) -> Tensor:
    """The weight [C_out, C_in, 1, ...] of a pointwise convolution as [C_out, C_in]: a view."""
    c_out, c_in = weight.shape[:2]
    return weight.detach().view(c_out, c_in)


# Forward.


def forward(
    o: Convolution, weight: Tensor, bias: Tensor | None, shapes: Shapes, channels_last: bool
) -> OneToOne:
    """The call's output, of its input; with `channels_last`, images that lie so."""
    if channels_last and weight.ndim == RANK and o.is_depthwise(shapes):
        return _by_library(o, weight, bias)
    convolve: Any = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}[len(o.stride)]
    stride, padding, dilation = list(o.stride), list(o.padding), list(o.dilation)
    groups = o.groups

    def run(x: Tensor) -> Tensor:
        output: Tensor = convolve(x, weight, bias, stride, padding, dilation, groups)
        return output

    return run


def _by_library(o: Convolution, weight: Tensor, bias: Tensor | None) -> OneToOne:
    """The kernel that `conv2d` comes to in the end, without what leads there."""
    kernel: Any = torch.mkldnn_convolution
    padding, stride, dilation, groups = list(o.padding), list(o.stride), list(o.dilation), o.groups
    return lambda x: kernel(x, weight, bias, padding, stride, dilation, groups)


# Input gradient.


def input_gradient(o: Convolution, weight: Tensor, shapes: Shapes, channels_last: bool) -> OneToOne:
    """The gradient of the call's input, of that of its output.

    The transposed convolution, at the end, does for all; the others take a third to all of its
    time. With `channels_last` the gradients are images that lie so.
    """
    if is_product(o, weight):
        found = _input_gradient_by_products(weight, shapes, channels_last)
        if found is not None:
            return found
    shape, out = shapes.inputs[0], shapes.output
    stride, padding, dilation = list(o.stride), list(o.padding), list(o.dilation)
    groups, none = o.groups, [0] * len(o.stride)
    few = out[0] * prod(out[2:]) < MANY_PIXELS
    if o.is_depthwise(shapes) and set(o.stride) == {1} and out == shape and not few:
        # Same size, stride 1: the convolution with the kernel turned round.
        spatial = tuple(range(2, weight.ndim))

        def turned(dy: Tensor) -> Tensor:
            return torch.convolution(
                dy, weight.flip(spatial), None, stride, padding, dilation, False, none, groups
            )

        return turned
    # What a strided convolution leaves over at the end of the image.
    rest = [
        size - ((end - 1) * step - 2 * pad + spread * (taps - 1) + 1)
        for size, end, taps, step, pad, spread in zip(
            shape[2:], out[2:], weight.shape[2:], o.stride, o.padding, o.dilation, strict=True
        )
    ]

    def transposed(dy: Tensor) -> Tensor:
        return torch.convolution(dy, weight, None, stride, padding, dilation, True, rest, groups)

    return transposed


def _input_gradient_by_products(
    weight: Tensor, shapes: Shapes, channels_last: bool
) -> OneToOne | None:
    shape, out = shapes.inputs[0], shapes.output
    values = matrix(weight)
    if channels_last and len(shape) == RANK:
        before, after = rows(out), images(shape)
        return lambda dy: after(torch.mm(before(dy), values))
    turned = values.t()
    if out[0] == 1:
        flat = (out[1], prod(out[2:]))
        return lambda dy: torch.mm(turned, dy.view(flat)).view(shape)
    if prod(out[2:]) < MANY_PIXELS:
        return None

    def one_by_one(dy: Tensor) -> Tensor:
        result = dy.new_empty(shape)
        for dx, part in zip(result.flatten(2), dy.flatten(2), strict=True):
            torch.mm(turned, part, out=dx)
        return result

    return one_by_one


# Weight gradient.


WeightGradient: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(gradient of the output, input) to that of the selected channels, in compact form.

Where the operator needs the selected channels of the input alone (`Need.selected_only`), the input
is those.
"""


def weight_gradient(
    o: Convolution, weight: Tensor, shapes: Shapes, selection: Selection, channels_last: bool
) -> WeightGradient:
    """The gradient of what is selected of a weight; the rest is not computed."""
    channels = selection.picked
    n = len(channels.numbers)
    if o.is_depthwise(shapes):
        if (
            weight.ndim == 4
            and prod(weight.shape[2:]) > MANY_TAPS
            and weight.dtype == torch.float32
        ):
            kernel = tuple(weight.shape[2:])
            return lambda dy, x: _depthwise_by_convolution(o, channels.of(dy, 1), x, kernel)
        one = weight.detach().narrow(0, 0, n)
        return lambda dy, x: _of_kernel(o, channels.of(dy, 1), x, one, n)
    if o.groups > 1:
        return lambda dy, x: _grouped(o, weight, selection, dy, x)
    if is_product(o, weight):
        return _weight_gradient_by_products(shapes, selection, channels_last)
    if selection.axis == "output":
        part = weight.detach().narrow(0, 0, n)
        return lambda dy, x: _of_kernel(o, channels.of(dy, 1), x, part, 1)
    part = weight.detach().narrow(1, 0, n)
    return lambda dy, x: _of_kernel(o, dy, x, part, 1)


def _weight_gradient_by_products(
    shapes: Shapes, selection: Selection, channels_last: bool
) -> WeightGradient:
    """Of a pointwise convolution: dy times x transposed, over all pixels of all samples."""
    channels, of_output, shape = selection.picked, selection.axis == "output", selection.shape
    (n, c, *spatial), out = shapes.inputs[0], shapes.output
    seen = (n, c if of_output else len(channels.numbers), *spatial)
    if channels_last and len(out) == RANK:
        of_dy, of_x = rows(out), rows(seen)
        if not of_output:
            return lambda dy, x: torch.mm(of_dy(dy).t(), of_x(_dense(x))).view(shape)
        return lambda dy, x: torch.mm(channels.of(of_dy(dy), 1).t(), of_x(x)).view(shape)

    def products(dy: Tensor, x: Tensor) -> Tensor:
        dy, x = dy.flatten(2), x.flatten(2)
        if of_output:
            dy = channels.of(dy, 1)
        if n == 1:
            return torch.mm(dy[0], x[0].t()).view(shape)
        # Small images are put side by side; of large ones that copy costs more than it saves.
        if dy.shape[2] <= MANY_PIXELS:
            total = dy.transpose(0, 1).flatten(1) @ x.transpose(0, 1).flatten(1).t()
            return total.view(shape)
        total = torch.mm(dy[0], x[0].t())
        for more, inputs in zip(dy[1:], x[1:], strict=True):
            total.addmm_(more, inputs.t())
        return total.view(shape)

    return products


def _dense(x: Tensor) -> Tensor:
    """Some channels of images, channels last, without the others between them."""
    return x.contiguous(memory_format=torch.channels_last)


def _depthwise_by_convolution(
    o: Convolution, dy: Tensor, x: Tensor, kernel: Sequence[int]
) -> Tensor:
    """A depthwise weight gradient as a depthwise convolution of x with dy as its kernel.

    Tap k of channel c is the sum over positions p of `dy[c, p] * x[c, p * stride + k * dilation]`:
    a correlation whose stride is the dilation and whose dilation is the stride. PyTorch's own
    kernel for this gradient takes up to fifteen times as long.
    """
    n, c = dy.shape[:2]
    # What a stride leaves over at the end would give taps that there are not.
    rest = [
        size + 2 * pad - (out - 1) * stride - (taps - 1) * dilation - 1
        for size, pad, out, stride, taps, dilation in zip(
            x.shape[2:], o.padding, dy.shape[2:], o.stride, kernel, o.dilation, strict=True
        )
    ]
    padding = o.padding
    if any(rest):
        (top, left), (below, beside) = o.padding, rest
        x, padding = F.pad(x, (left, left - beside, top, top - below)), (0, 0)
    planes, kernels = x.reshape(1, n * c, *x.shape[2:]), dy.reshape(n * c, 1, *dy.shape[2:])
    samples = F.conv2d(planes, kernels, None, o.dilation, padding, o.stride, n * c)
    own = samples.view(n, c, 1, *samples.shape[2:])
    return own[0] if n == 1 else own.sum(0)


def _of_kernel(o: Convolution, dy: Tensor, x: Tensor, like: Tensor, groups: int) -> Tensor:
    """The gradient of a kernel of the shape of `like`, whose values do not matter."""
    no_shift = (0,) * len(o.stride)
    result: Tensor = aten.convolution_backward(
        dy, x, like, None, o.stride, o.padding, o.dilation, False, no_shift, groups,
        (False, True, False),
    )[1]  # fmt: skip
    return result


def _grouped(o: Convolution, weight: Tensor, selection: Selection, dy: Tensor, x: Tensor) -> Tensor:
    """One group after another, each cut to its own selected channels."""
    inputs, outputs = weight.shape[1], weight.shape[0] // o.groups
    a_group = outputs if selection.axis == "output" else inputs
    parts, start = [], 0
    for group, members in groupby(selection.picked.numbers, key=lambda c: c // a_group):
        inside = [channel - group * a_group for channel in members]
        part = dy.narrow(1, group * outputs, outputs)
        if selection.axis == "output":
            seen = x.narrow(1, group * inputs, inputs)
            like = weight.narrow(0, 0, len(inside))
            parts.append(_of_kernel(o, Channels(inside).of(part, 1), seen, like, 1))
        else:
            seen = x.narrow(1, start, len(inside))
            like = weight.narrow(0, 0, outputs).narrow(1, 0, len(inside))
            parts.append(_of_kernel(o, part, seen, like, 1).transpose(0, 1))
        start += len(inside)
    return torch.cat(parts)
