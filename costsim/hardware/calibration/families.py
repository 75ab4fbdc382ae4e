"""Made-up networks that probes are steps of: blocks as published families of networks have them.

No network here is a published one. `assorted` has every kind of operator that the others lack, so
that a calibration leaves no kind of a model unmeasured.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType

from costsim.ir.graph import Call, LayerGraph, Parameter
from costsim.ir.operators import (
    GELU,
    OPERATORS,
    AdaptiveAveragePool,
    Add,
    AveragePool,
    BatchNorm,
    Clamp,
    Concatenate,
    Constant,
    Convolution,
    Expand,
    GroupNorm,
    HardSwish,
    Input,
    LayerNorm,
    LeakyReLU,
    Linear,
    LogSoftmax,
    MatMul,
    MaxPool,
    Mean,
    Multiply,
    Operator,
    Pad,
    Permute,
    ReLU,
    Reshape,
    Scale,
    Sigmoid,
    SiLU,
    Slice,
    Softmax,
    Subtract,
)
from costsim.ir.operators.convolution import DynamicConvolution, TransposedConvolution
from costsim.ir.operators.elementwise import Where
from costsim.ir.operators.sampling import Embedding, Fold, Lookup, Resize, Unfold

WIDTHS = (8, 16, 16, 24, 32, 40, 48, 64, 80, 96, 128, 160)
"""Channels between blocks: those that published networks have."""

NORM_EPS = 1e-5


@dataclass
class Writer:
    """Appends calls; shapes follow from the operators."""

    batch: int
    calls: list[Call] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def call(
        self,
        operator: Operator,
        *inputs: str,
        weight: tuple[int, ...] | None = None,
        bias: tuple[int, ...] | None = None,
        statistics: int = 0,
        condition: tuple[int, ...] | None = None,
    ) -> str:
        """Add a call; the name of its value.

        `statistics`: of so many channels, if it has any; `condition`: the shape of a constant one.
        """
        name = f"{operator.kind}{len(self.calls)}"
        owns = weight is not None or bias is not None
        shape = operator.output_shape(tuple(self.shapes[value] for value in inputs), weight)
        self.calls.append(
            Call(
                name,
                operator,
                inputs,
                shape,
                name if owns else None,
                Parameter(f"{name}.weight", weight) if weight else None,
                Parameter(f"{name}.bias", bias) if bias else None,
                (
                    *(
                        Parameter(f"{name}.running_{what}", (statistics,))
                        for what in (("mean", "var") if statistics else ())
                    ),
                    *([Parameter(f"{name}.condition", condition)] if condition else []),
                ),
            )
        )
        self.shapes[name] = shape
        return name

    def image(self, side: int) -> str:
        """The input: square images of three channels and `side` pixels a side."""
        return self.call(Input((self.batch, 3, side, side)))

    def convolution(
        self,
        x: str,
        out: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        *,
        bias: bool = True,
        border: bool = True,
    ) -> str:
        """A convolution to `out` channels; without `border` it is not padded."""
        padding = kernel // 2 if border else 0
        operator = Convolution((stride,) * 2, (padding,) * 2, (1, 1), groups)
        weight = (out, self.shapes[x][1] // groups, kernel, kernel)
        return self.call(operator, x, weight=weight, bias=(out,) if bias else None)

    def norm(self, x: str) -> str:
        """A batch normalisation of the channels, frozen statistics included."""
        c = self.shapes[x][1]
        return self.call(BatchNorm(NORM_EPS), x, weight=(c,), bias=(c,), statistics=c)

    def linear(self, x: str, out: int) -> str:
        """A linear layer with a bias, from the last dimension to `out` features."""
        return self.call(Linear(), x, weight=(out, self.shapes[x][-1]), bias=(out,))

    def graph(self) -> LayerGraph:
        """The graph of all calls so far."""
        return LayerGraph(self.calls)


def _mobile(w: Writer, rng: random.Random, whole: bool) -> LayerGraph:
    """Inverted residual blocks behind a strided 3x3 convolution, and the mean over pixels."""
    normed = rng.random() < 0.25
    activation = rng.choice((*(Clamp(0.0, 6.0, False),) * 5, ReLU(), HardSwish(), SiLU()))

    def convolution(
        x: str, out: int, kernel: int, stride: int = 1, groups: int = 1, *, active: bool = True
    ) -> str:
        x = w.convolution(x, out, kernel, stride, groups, bias=not normed)
        x = w.norm(x) if normed else x
        return w.call(activation, x) if active else x

    side = 128 if whole else rng.choice((32, 48, 64, 96, 128, 160))
    x = convolution(w.image(side), rng.choice((8, 16, 16, 24, 32)), 3, 2)
    count = rng.randint(12, 17) if whole else rng.randint(2, 4)
    for index in range(count):
        start, channels, side = x, w.shapes[x][1], w.shapes[x][2]
        # As networks do: smaller and wider with depth.
        last = len(WIDTHS) if not whole else min(len(WIDTHS), 3 + index)
        strided = side >= 8 and rng.random() < (0.3 if whole else 0.4)
        shortcut = not strided and rng.random() < 0.5
        out = channels if shortcut else rng.choice(WIDTHS[max(0, last - 6) if whole else 0 : last])
        middle = min(640, channels * rng.choice((1, 3, 3, 4, 5, 6)))
        if middle != channels:
            x = convolution(x, middle, 1)
        x = convolution(x, middle, rng.choice((3, 3, 5, 7)), 2 if strided else 1, middle)
        x = convolution(x, out, 1, active=False)
        if shortcut:
            x = w.call(Add(), start, x)
    if rng.random() < 0.5:
        x = convolution(x, rng.choice((256, 384, 448)), 1)
    w.call(Mean((2, 3)), x)
    return w.graph()


def _residual(w: Writer, rng: random.Random, whole: bool) -> LayerGraph:
    """Basic blocks of two 3x3 convolutions behind a stem, pooling and a linear layer."""

    def convolution(x: str, out: int, kernel: int, stride: int = 1, *, active: bool = True) -> str:
        x = w.norm(w.convolution(x, out, kernel, stride, bias=False))
        return w.call(ReLU(), x) if active else x

    side = rng.choice((32, 64, 96) if whole else (16, 24, 32, 48, 64, 96))
    x = convolution(w.image(side), rng.choice((8, 16, 24, 32, 48, 64)), rng.choice((3, 5, 7)), 2)
    if rng.random() < 0.5:
        x = w.call(MaxPool((3, 3), (2, 2), (1, 1), (1, 1)), x)
    for index in range(rng.randint(6, 9) if whole else rng.randint(1, 3)):
        start, channels = x, w.shapes[x][1]
        strided = index % 2 == 1 and w.shapes[x][2] >= 2
        out = rng.choice((channels, channels, 2 * channels)) if whole else rng.choice(_RESIDUAL)
        out = min(out, 512)
        x = convolution(x, out, 3, 2 if strided else 1)
        x = convolution(x, out, 3, active=False)
        if strided or out != channels:
            start = convolution(start, out, 1, 2 if strided else 1, active=False)
        x = w.call(ReLU(), w.call(Add(), x, start))
    x = w.call(AdaptiveAveragePool((1, 1)), x)
    x = w.call(Reshape((w.batch, w.shapes[x][1])), x)
    w.linear(x, rng.choice((10, 50, 100)))
    return w.graph()


_RESIDUAL = (8, 8, 16, 16, 32, 32, 64, 64, 128, 256, 512)


def _attention(w: Writer, rng: random.Random, whole: bool) -> LayerGraph:
    """Attention of one head and a perceptron over the patches of an image."""
    patch, width = rng.choice((4, 8)), rng.choice((16, 32, 64, 128))
    x = w.convolution(w.image(rng.choice((32, 64))), width, patch, patch, border=False)
    tokens = w.shapes[x][2] * w.shapes[x][3]
    x = w.call(Reshape((w.batch, width, tokens)), x)
    x = w.call(Permute((0, 2, 1)), x)
    for _ in range(4 if whole else rng.randint(1, 2)):
        y = w.call(LayerNorm(1, NORM_EPS), x, weight=(width,), bias=(width,))
        q, k, v = (w.linear(y, width) for _ in range(3))
        a = w.call(MatMul(transpose_b=True, scale=width**-0.5), q, k)
        y = w.call(MatMul(), w.call(Softmax(2), a), v)
        x = w.call(Add(), x, w.linear(y, width))
        y = w.call(LayerNorm(1, NORM_EPS), x, weight=(width,), bias=(width,))
        y = w.call(GELU("none"), w.linear(y, 2 * width))
        x = w.call(Add(), x, w.linear(y, width))
    x = w.call(Mean((1,)), x)
    w.linear(x, 10)
    return w.graph()


def _assorted(w: Writer, rng: random.Random, whole: bool) -> LayerGraph:
    """Everything that is rare elsewhere, once each in any order, between convolutions."""
    width = rng.choice((8, 16, 32, 48))
    x = w.convolution(w.image(rng.choice((16, 32, 48, 64))), width, 3, 2, bias=False)
    blocks = [*_BLOCKS] * (2 if whole else 1)
    rng.shuffle(blocks)
    for block in blocks:
        x = block(w, w.convolution(x, width, 1) if rng.random() < 0.3 else x)
    w.call(Mean((2, 3)), x)
    return w.graph()


def _normed(w: Writer, x: str) -> str:
    c = w.shapes[x][1]
    return w.call(GroupNorm(4, NORM_EPS), x, weight=(c,), bias=(c,))


def _gated(w: Writer, x: str) -> str:
    """Squeeze and excitation."""
    squeezed = w.call(Mean((2, 3), keep_dimensions=True), x)
    gate = w.convolution(squeezed, w.shapes[x][1], 1)
    return w.call(Multiply(), x, w.call(Sigmoid(), gate))


def _spread(w: Writer, x: str) -> str:
    """What the whole image is on average, taken from every pixel."""
    mean = w.call(Mean((2, 3), keep_dimensions=True), x)
    return w.call(Subtract(), x, w.call(Expand(w.shapes[x]), mean))


def _positioned(w: Writer, x: str) -> str:
    shape = (1, *w.shapes[x][1:])
    return w.call(Add(), x, w.call(Constant(shape), bias=shape))


def _halves(w: Writer, x: str) -> str:
    half = w.shapes[x][1] // 2
    first, second = w.call(Slice(1, 0, half), x), w.call(Slice(1, half, 2 * half), x)
    return w.call(Concatenate(1), w.call(LeakyReLU(0.1), first), second)


def _smoothed(w: Writer, x: str) -> str:
    padded = w.call(Pad(((0, 0), (0, 0), (1, 1), (1, 1))), x)
    return w.call(AveragePool((3, 3), (1, 1), (0, 0)), padded)


def _channels_last(w: Writer, x: str) -> str:
    """A perceptron over the channels of each pixel."""
    c = w.shapes[x][1]
    y = w.call(Permute((0, 2, 3, 1)), x)
    y = w.call(LayerNorm(1, NORM_EPS), y, weight=(c,), bias=(c,))
    y = w.linear(w.call(GELU("none"), w.linear(y, c)), c)
    return w.call(Permute((0, 3, 1, 2)), y)


def _pooled(w: Writer, x: str) -> str:
    return w.call(MaxPool((3, 3), (1, 1), (1, 1), (1, 1)), x)


def _resampled(w: Writer, x: str) -> str:
    """Half as large, and back as a decoder does it."""
    _, c, height, width = w.shapes[x]
    small = w.call(Resize((height // 2, width // 2), "linear"), x)
    up = TransposedConvolution((2, 2), (0, 0), (height % 2, width % 2), (1, 1))
    return w.call(up, small, weight=(c, c, 2, 2), bias=(c,))


def _windowed(w: Writer, x: str) -> str:
    """Windows as columns, and back."""
    sizes = ((3, 3), (1, 1), (1, 1), (1, 1))
    columns = w.call(Unfold(*sizes), x)
    return w.call(Fold(*sizes, w.shapes[x][2:]), columns)


def _rearranged(w: Writer, x: str) -> str:
    """Channels in another order, some of them by a constant condition."""
    shape = w.shapes[x]
    other = w.call(Lookup(1, tuple(reversed(range(shape[1])))), x)
    return w.call(Where(shape[2:]), x, other, condition=shape[2:])


def _embedded(w: Writer, x: str) -> str:
    """Rows of a table by what counts as tokens: the first, whatever the images are."""
    n, c = w.shapes[x][:2]
    tokens = w.call(Scale(0.0), w.call(Mean((1, 2, 3)), w.calls[0].name))
    rows = w.call(Embedding(), w.call(Constant((4, c)), bias=(4, c)), tokens)
    return w.call(Add(), x, w.call(Reshape((n, c, 1, 1)), rows))


def _standardised(w: Writer, x: str) -> str:
    """A convolution by a weight that is computed."""
    c = w.shapes[x][1]
    weight = w.call(Scale(0.5), w.call(Constant((c, c, 3, 3)), bias=(c, c, 3, 3)))
    return w.call(DynamicConvolution((1, 1), (1, 1), (1, 1), 1), x, weight)


def _usual(kind: type[Operator], w: Writer, x: str) -> str:
    """An operator as it says it usually is, on numbers that every function takes."""
    operator = kind.usual(w.shapes[x])
    assert operator is not None
    inside = w.call(Scale(0.5, 0.25), w.call(Sigmoid(), x))
    y = w.call(operator, *(x, inside)[-kind.operands :])
    return y if w.shapes[y] == w.shapes[x] else w.call(Add(), x, y)


_BLOCKS: tuple[Callable[[Writer, str], str], ...] = (
    _normed,
    _gated,
    _spread,
    _positioned,
    _halves,
    _smoothed,
    _channels_last,
    _resampled,
    _windowed,
    _rearranged,
    _embedded,
    _standardised,
    _pooled,
    lambda w, x: w.call(LogSoftmax(1), x),
    lambda w, x: w.call(Scale(3.0, -1.5), x),
    *(partial(_usual, kind) for kind in OPERATORS.values() if kind.usual((1, 8, 4, 4))),
)


Family = Callable[[Writer, random.Random, bool], LayerGraph]

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {"mobile": _mobile, "residual": _residual, "attention": _attention, "assorted": _assorted}
)
"""By the name that probes have them under."""
