"""Probes: small training steps of made-up networks, whose operations are timed one by one.

A kernel timed alone, over and over, finds its operands in the cache and the processor's branches
learnt; in a step it finds what the operations before it left. So the micro-kernels of a
calibration are operations in their place: blocks of a few layers as mobile networks, residual
networks and transformers have them, with a random plan, forward to update. A probe is named by its
family, a number and a batch size, which say everything about it.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType

from costsim.errors import InputError
from costsim.graph import Call, LayerGraph, Parameter
from costsim.operators import (
    GELU,
    AdaptiveAveragePool,
    Add,
    BatchNorm,
    Clamp,
    Convolution,
    HardSwish,
    Input,
    LayerNorm,
    Linear,
    MatMul,
    MaxPool,
    Mean,
    Operator,
    Permute,
    ReLU,
    Reshape,
    SiLU,
    Softmax,
)
from costsim.plan import ChannelSubset, UpdatePlan
from costsim.program import TrainingProgram, compile_program
from costsim.step import TrainingStep

BATCHES = (1, 1, 1, 2, 4, 8, 8, 16)
WIDTHS = (8, 16, 16, 24, 32, 40, 48, 64, 80, 96, 128, 160)
"""Channels between blocks: those that published networks have."""

NORM_EPS = 1e-5

_WHOLE = "-whole"


@dataclass(frozen=True, slots=True)
class Probe:
    """The step number `number` of a family; `whole` is as deep as a real network."""

    family: str
    number: int
    batch: int
    whole: bool = False

    @property
    def name(self) -> str:
        """As `parse_probe` reads it."""
        return f"{self.family}-{self.number}-b{self.batch}" + _WHOLE * self.whole

    def program(self) -> TrainingProgram:
        """The step, compiled; the same each time. Raises `InputError` for an unknown family."""
        return _compiled(self)


@lru_cache(maxsize=512)
def _compiled(probe: Probe) -> TrainingProgram:
    """A program is asked for whenever readings of it are looked at."""
    if probe.family not in FAMILIES:
        raise InputError(f"probe family {probe.family!r}; known are {', '.join(FAMILIES)}")
    rng = random.Random(probe.name)
    graph = FAMILIES[probe.family](_Writer(probe.batch), rng, probe.whole)
    step = TrainingStep(
        batch=probe.batch,
        optimizer=rng.choice(("sgd", "momentum", "adam", "adam")),
        update=rng.choice(("immediate", "deferred")),
    )
    return compile_program(graph, random_plan(graph, rng), step)


def parse_probe(name: str) -> Probe:
    """The probe called `name`; raises `InputError`."""
    whole = name.endswith(_WHOLE)
    family, _, rest = name.removesuffix(_WHOLE).partition("-")
    number, _, batch = rest.partition("-b")
    if family not in FAMILIES or not number.isdigit() or not batch.isdigit() or int(batch) < 1:
        raise InputError(f"probe {name!r} is unknown; one is called like 'mobile-3-b8'")
    return Probe(family, int(number), int(batch), whole)


def candidates(count: int) -> list[Probe]:
    """The first `count` probes: families by turns, most of them of convolutional networks."""
    turns = ("mobile", "residual", "mobile", "mobile", "residual", "attention")
    found = []
    for number in range(count):
        rng = random.Random(f"candidate {number}")
        found.append(Probe(turns[number % len(turns)], number, rng.choice(BATCHES)))
    return found


def references() -> list[Probe]:
    """Steps as deep as real ones, which a calibration should predict well: never run."""
    return [
        Probe(family, number, batch, whole=True)
        for number in range(3)
        for family in ("mobile", "residual")
        for batch in (1, 8)
    ] + [Probe("attention", 0, 1, whole=True)]


def checks() -> list[Probe]:
    """Steps as deep as real ones, by which a calibration finds out how far off it is."""
    return [
        Probe(family, 100 + number, batch, whole=True)
        for number in range(4)
        for family, batch in (("mobile", 1), ("residual", 8), ("mobile", 8), ("residual", 1))
    ]


def random_plan(graph: LayerGraph, rng: random.Random) -> UpdatePlan:
    """Some channels of some of the last layers, some biases; never nothing."""
    names = [name for name in graph.layers if graph.selectable_channels(name, "output")]
    subsets, biases = [], set()
    for name in names[-rng.randint(1, len(names)) :]:
        if rng.random() < 0.6:
            size = graph.selectable_channels(name, "output")
            taken = size if rng.random() < 0.3 else rng.randint(1, size)
            scattered = rng.random() < 0.7
            chosen = sorted(rng.sample(range(size), taken)) if scattered else range(taken)
            subsets.append(ChannelSubset(name, "output", tuple(chosen)))
        if graph.layers[name].bias is not None and rng.random() < 0.4:
            biases.add(name)
    if not subsets:
        subsets.append(ChannelSubset(names[-1], "output", (0,)))
    return UpdatePlan(tuple(subsets), frozenset(biases))


@dataclass
class _Writer:
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
    ) -> str:
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
                tuple(
                    Parameter(f"{name}.running_{what}", (statistics,))
                    for what in (("mean", "var") if statistics else ())
                ),
            )
        )
        self.shapes[name] = shape
        return name

    def image(self, side: int) -> str:
        return self.call(Input((self.batch, 3, side, side)))

    def convolution(
        self, x: str, out: int, kernel: int, stride: int = 1, groups: int = 1, *, bias: bool = True
    ) -> str:
        operator = Convolution((stride,) * 2, (kernel // 2,) * 2, (1, 1), groups)
        weight = (out, self.shapes[x][1] // groups, kernel, kernel)
        return self.call(operator, x, weight=weight, bias=(out,) if bias else None)

    def norm(self, x: str) -> str:
        c = self.shapes[x][1]
        return self.call(BatchNorm(NORM_EPS), x, weight=(c,), bias=(c,), statistics=c)

    def linear(self, x: str, out: int) -> str:
        return self.call(Linear(), x, weight=(out, self.shapes[x][-1]), bias=(out,))

    def graph(self) -> LayerGraph:
        return LayerGraph(self.calls)


def _mobile(w: _Writer, rng: random.Random, whole: bool) -> LayerGraph:
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


def _residual(w: _Writer, rng: random.Random, whole: bool) -> LayerGraph:
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


def _attention(w: _Writer, rng: random.Random, whole: bool) -> LayerGraph:
    """Attention of one head and a perceptron over the patches of an image."""
    patch, width = rng.choice((4, 8)), rng.choice((16, 32, 64, 128))
    x = w.convolution(w.image(rng.choice((32, 64))), width, patch, patch)
    # A patch has no border.
    w.calls[-1] = _without_padding(w.calls[-1], w)
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


def _without_padding(call: Call, w: _Writer) -> Call:
    assert isinstance(call.operator, Convolution)
    assert call.weight is not None
    operator = Convolution(call.operator.stride, (0, 0), (1, 1), 1)
    shape = operator.output_shape((w.shapes[call.inputs[0]],), call.weight.shape)
    w.shapes[call.name] = shape
    return Call(
        call.name, operator, call.inputs, shape, call.layer, call.weight, call.bias, call.buffers
    )


Family = Callable[[_Writer, random.Random, bool], LayerGraph]

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {"mobile": _mobile, "residual": _residual, "attention": _attention}
)
"""Made-up networks by family; none is a published one."""

YARDSTICK = Probe("mobile", 1_000_024, 1)
"""Run between all others: what a change of the machine's speed is seen by."""
