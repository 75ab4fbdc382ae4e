"""Random layer graphs, plans and steps for property tests, built without torch."""

from dataclasses import dataclass, field

from hypothesis import strategies as st

from costsim.ir.graph import Call, LayerGraph, Parameter
from costsim.ir.operators import (
    ELU,
    GELU,
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
    HardSigmoid,
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
    Tanh,
)
from costsim.ir.operators.activation import LogSigmoid, Mish, Softplus
from costsim.ir.operators.convolution import DynamicConvolution, TransposedConvolution
from costsim.ir.operators.elementwise import Divide, Larger, Where
from costsim.ir.operators.function import (
    Absolute,
    Exp,
    Log,
    Power,
    Reciprocal,
    ReciprocalSquareRoot,
    SquareRoot,
)
from costsim.ir.operators.pooling import Extremum, LogSumExp, Norm, Variance
from costsim.ir.operators.sampling import Embedding, Fold, Interpolation, Lookup, Resize, Unfold
from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.ir.program import AXES, cut_calls
from costsim.ir.step import OPTIMIZER_STATES, BitWidths, TrainingStep


@dataclass
class GraphBuilder:
    """Collects calls; every method returns the name of the value it adds."""

    calls: list[Call] = field(default_factory=list)

    def shape(self, value: str) -> tuple[int, ...]:
        """That of a value which is there already."""
        return next(call.shape for call in self.calls if call.name == value)

    def add(
        self,
        operator: Operator,
        inputs: tuple[str, ...] = (),
        weight: tuple[int, ...] | None = None,
        bias: bool = False,
        layer: str | None = None,
    ) -> str:
        """A call of any operator; `weight` is a shape, `layer` a name instead of a number."""
        name = f"{operator.kind}{len(self.calls)}"
        weighted = weight is not None or bias
        layer = layer or (name if weighted else None)
        shape = operator.output_shape([self.shape(value) for value in inputs], weight)
        if isinstance(operator, Constant):
            bias_shape = operator.shape
        else:
            bias_shape = shape[-1:] if isinstance(operator, Linear | LayerNorm) else shape[1:2]
        self.calls.append(
            Call(
                name,
                operator,
                inputs,
                shape,
                layer,
                Parameter(f"{layer}.weight", weight) if weight else None,
                Parameter(f"{layer}.bias", bias_shape) if bias else None,
            )
        )
        return name

    def input(self, *shape: int) -> str:
        """The images."""
        return self.add(Input(shape))

    def conv(
        self,
        x: str,
        out: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = True,
        layer: str | None = None,
    ) -> str:
        """A square convolution that keeps the size of images but for its stride."""
        operator = Convolution((stride,) * 2, (kernel // 2,) * 2, (1, 1), groups)
        weight = (out, self.shape(x)[1] // groups, kernel, kernel)
        return self.add(operator, (x,), weight, bias, layer)

    def linear(self, x: str, out: int, *, bias: bool = True) -> str:
        """A linear layer along the last dimension."""
        return self.add(Linear(), (x,), (out, self.shape(x)[-1]), bias)

    def relu(self, x: str) -> str:
        """A ReLU."""
        return self.add(ReLU(), (x,))

    def pool(self, x: str) -> str:
        """The mean of each map."""
        return self.add(Mean((2, 3)), (x,))

    def graph(self) -> LayerGraph:
        """The calls the last one depends on."""
        needed = {self.calls[-1].name}
        for call in reversed(self.calls):
            if call.name in needed:
                needed.update(call.inputs)
        return LayerGraph(call for call in self.calls if call.name in needed)


def chain(
    *, batch: int = 1, channels: tuple[int, ...] = (4, 6, 5), bias: bool = True
) -> LayerGraph:
    """Convolutions with ReLUs between them, pooled."""
    g = GraphBuilder()
    x = g.input(batch, 3, 4, 4)
    for count in channels:
        x = g.relu(g.conv(x, count, 3, bias=bias))
    g.pool(x)
    return g.graph()


def inverted_bottleneck() -> LayerGraph:
    """What the built-in networks are made of, strided, clamped, with a skip."""
    g = GraphBuilder()
    x = g.add(Clamp(0.0, 6.0, False), (g.conv(g.input(2, 3, 9, 9), 6, 3, stride=2),))
    y = g.add(Clamp(0.0, 6.0, False), (g.conv(x, 10, 1),))
    y = g.add(Clamp(0.0, 6.0, False), (g.conv(y, 10, 5, groups=10),))
    x = g.add(Add(), (x, g.conv(y, 6, 1)))
    x = g.relu(g.conv(x, 8, 3, groups=2))
    g.linear(g.pool(x), 5)
    return g.graph()


def around_tiles() -> dict[str, LayerGraph]:
    """Sizes that kernels in tiles and pairs of taps must not trip over, by what they are about."""

    def depthwise(
        kernel: tuple[int, int],
        stride: int = 1,
        dilation: int = 1,
        shape: tuple[int, int] = (9, 11),
    ) -> LayerGraph:
        g = GraphBuilder()
        x = g.conv(g.input(2, 3, *shape), 5, 1)
        around = tuple(k // 2 * dilation for k in kernel)
        o = Convolution((stride, stride), around, (dilation, dilation), 5)
        g.linear(g.pool(g.add(o, (x,), (5, 1, *kernel), True)), 3)
        return g.graph()

    def dense(
        inputs: int, outputs: int, kernel: int = 1, stride: int = 1, shape: tuple[int, int] = (9, 9)
    ) -> LayerGraph:
        g = GraphBuilder()
        x = g.conv(g.input(1, 2, *shape), inputs, 1)
        g.linear(g.pool(g.conv(x, outputs, kernel, stride=stride)), 3)
        return g.graph()

    found = {
        f"{k} taps a row, stride {step}": depthwise((k, k), step) for k in range(3, 10, 2)
        for step in (1, 2, 3)
    }  # fmt: skip
    return found | {
        "few columns": depthwise((5, 5), shape=(6, 3)),
        "no rows alike": depthwise((3, 7), shape=(2, 12)),
        "taps apart": depthwise((3, 3), dilation=2),
        "taps apart, strided": depthwise((3, 3), 2, 2),
        "more taps than are turned": depthwise((7, 13), shape=(4, 14)),
        "rows longer than a band": depthwise((3, 3), shape=(2, 300)),
        "several bands": depthwise((5, 3), shape=(12, 40)),
        "several columns": dense(101, 3),
        "several rounds of sums": dense(6, 53),
        "several runs of floats": dense(7, 70),
        "one pixel left": dense(9, 5, shape=(5, 5)),
        "channels of many taps": dense(13, 5, 3, 2),
        "more taps than a column holds": dense(2, 5, 11, shape=(12, 12)),
    }


@st.composite
def graphs(
    draw: st.DrawFn, *, max_calls: int = 10, simple: bool = False, rich: bool = False
) -> LayerGraph:
    """Chains with skips, branches, gates, reuse, slices and small attention.

    `simple`: convolutions, ReLU and residual adds only. `rich`: every kind of operator, and views
    around those that save their output, a mask, indices or statistics.
    """
    g = GraphBuilder()
    batch, channels = draw(st.integers(1, 2)), draw(st.integers(1, 2)) * 2
    values = [g.input(batch, channels, 4, 4)]
    for _ in range(draw(st.integers(1, max_calls))):
        # recent values are likelier, so that chains with skips come out rather than stars
        x = values[-1 - min(draw(st.sampled_from([0, 0, 0, 0, 1, 2, 3])), len(values) - 1)]
        names = SIMPLE_BLOCKS if simple else RICH_BLOCKS if rich else BLOCKS
        values.append(_block(draw, g, x, values, draw(st.sampled_from(names))))
    if draw(st.booleans()):
        values.append(g.pool(values[-1]))
    else:
        flat = g.add(Reshape((batch, -(-_size(g.shape(values[-1])) // batch))), (values[-1],))
        values.append(g.linear(flat, 3, bias=draw(st.booleans())))
    graph = g.graph()
    if graph.calls[0].operator.kind != "input":  # pragma: no cover
        raise AssertionError("the input comes first")
    return graph


def _size(shape: tuple[int, ...]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


SIMPLE_BLOCKS = ("convolution", "convolution", "relu", "add", "depthwise")
BLOCKS = (
    *SIMPLE_BLOCKS,
    "reuse",
    "hard_swish",
    "sigmoid",
    "batch_norm",
    "gate",
    "multiply",
    "subtract",
    "grouped",
    "attention",
    "halves",
    "constant",
)
RICH_BLOCKS = (
    *BLOCKS,
    "view",
    "view",
    "viewed",
    "viewed",
    "viewed",
    "unary",
    "columns",
    "pooled",
    "permuted",
    "expanded",
    "padded",
    "binary",
    "where",
    "reduced",
    "resized",
    "looked_up",
    "windows",
    "transposed",
    "dynamic",
    "embedded",
)
UNARY = (
    ReLU(),
    LeakyReLU(0.1),
    Clamp(0.0, 6.0, False),
    HardSwish(),
    GELU("none"),
    SiLU(),
    ELU(1.0),
    Sigmoid(),
    Tanh(),
    Softmax(1),
    LogSoftmax(1),
    Scale(2.0, 1.0),
    GroupNorm(1, 1e-5),
    LayerNorm(1, 1e-5),
    HardSigmoid(),
    Softplus(),
    Mish(),
    LogSigmoid(),
    Exp(),
    Log(),
    SquareRoot(),
    ReciprocalSquareRoot(),
    Reciprocal(),
    Absolute(),
    Power(0.75),
)
"""Operators of one input: of every kind of what they keep, most of which may work in place."""
POOLS = (
    MaxPool((3, 3), (1, 1), (1, 1), (1, 1)),
    AveragePool((3, 3), (1, 1), (1, 1)),
    AdaptiveAveragePool((3, 3)),
)
BINARY = (Add(), Subtract(), Multiply(), Divide(), Larger())
REDUCTIONS = (Mean, Norm, Extremum, Variance, LogSumExp)
DRAWN = (*UNARY, *POOLS, *BINARY, *REDUCTIONS)
"""Operators of which a block draws one; others have a block of their own."""


def _block(  # noqa: C901 - one case for each kind of block
    draw: st.DrawFn, g: GraphBuilder, x: str, values: list[str], name: str
) -> str:
    shape = g.shape(x)
    other = draw(st.sampled_from([value for value in values if g.shape(value) == shape]))
    bias = draw(st.booleans())
    match name:
        case "convolution":
            out, kernel = draw(st.sampled_from([2, 4])), draw(st.sampled_from([1, 3]))
            return g.conv(x, out, kernel, bias=bias)
        case "relu":
            return g.relu(x)
        case "add":
            return g.add(Add(), (x, other))
        case "depthwise":
            return g.conv(x, shape[1], 3, groups=shape[1], bias=bias)
        case "reuse":
            reusable = [
                call
                for call in g.calls
                if call.operator.kind == "convolution"
                and call.bias
                and call.weight
                and call.weight.shape[1] == shape[1]
            ]
            if not reusable:
                return g.conv(g.conv(x, shape[1], 3), 4, 1)
            call = draw(st.sampled_from(reusable))
            assert call.weight
            return g.conv(x, call.shape[1], call.weight.shape[2], layer=call.layer)
        case "hard_swish":
            return g.add(HardSwish(), (x,))
        case "sigmoid":
            return g.add(Sigmoid(), (x,))
        case "batch_norm":
            return g.add(BatchNorm(1e-5), (x,), (shape[1],), bias)
        case "gate":
            return _gate(g, x)
        case "multiply":
            return g.add(Multiply(), (x, other))
        case "subtract":
            return g.add(Subtract(), (x, other))
        case "grouped":
            return g.conv(x, 4, 1, groups=2, bias=False)
        case "attention":
            return _attention(g, x)
        case "halves":
            return _halves(g, x)
        case "constant":
            return g.add(Add(), (x, g.add(Constant((1, *shape[1:])), bias=True)))
        case "view":
            return g.add(Reshape((*shape[:2], *_sides(draw, shape))), (x,))
        case "viewed":
            return _viewed(draw, g, x)
        case "unary":
            return g.add(draw(st.sampled_from(UNARY)), (x,))
        case "columns":
            return g.linear(x, draw(st.sampled_from([2, 4])), bias=bias)
        case "pooled":
            return g.add(draw(st.sampled_from(POOLS)), (x,))
        case "permuted":
            return g.add(Permute((0, 1, 3, 2)), (x,))
        case "expanded":
            return g.add(Expand(shape), (g.add(Mean((2, 3), keep_dimensions=True), (x,)),))
        case "padded":
            return g.add(Pad(((0, 0), (0, 0), (0, 1), (0, 0))), (x,))
        case "binary":
            return g.add(draw(st.sampled_from(BINARY)), (x, other))
        case "where":
            return g.add(Where(shape[2:]), (x, other))
        case "reduced":
            return _reduced(draw, g, x)
        case "resized":
            modes: tuple[Interpolation, ...] = ("nearest", "linear")
            mode = draw(st.sampled_from(modes))
            return g.add(Resize(draw(st.sampled_from([(2, 3), (5, 4)])), mode), (x,))
        case "looked_up":
            along = draw(st.sampled_from([1, 2]))
            last = shape[along] - 1
            return g.add(Lookup(along, draw(st.sampled_from([(0, last), (last, 0, 0, 0)]))), (x,))
        case "windows":
            return _windows(g, x)
        case "embedded":
            return _embedded(g, x)
        case "transposed":
            return _transposed(draw, g, x, bias)
        case _:
            return _dynamic(draw, g, x)


def _reduced(draw: st.DrawFn, g: GraphBuilder, x: str) -> str:
    """A statistic of `x`, and `x` by it, either of the two first."""
    dimensions = draw(st.sampled_from([(1,), (2, 3), (1, 2, 3)]))
    statistic = g.add(draw(st.sampled_from(REDUCTIONS))(dimensions, True), (x,))
    operator, order = draw(st.sampled_from(BINARY)), draw(st.sampled_from([1, -1]))
    return g.add(operator, (x, statistic)[::order])


def _windows(g: GraphBuilder, x: str) -> str:
    """Windows that overlap, cut out, worked on and put back."""
    how = (2, 2), (1, 1), (1, 1), (1, 1)
    columns = g.relu(g.add(Unfold(*how), (x,)))
    return g.add(Fold(*how, g.shape(x)[2:]), (columns,))


def _transposed(draw: st.DrawFn, g: GraphBuilder, x: str, bias: bool) -> str:
    """A transposed convolution; small images become larger."""
    _, channels, *image = g.shape(x)
    stride = draw(st.sampled_from([1, 2])) if max(image) <= 4 else 1
    groups = draw(st.sampled_from([1, channels]))
    operator = TransposedConvolution((stride,) * 2, (0, 0), (0, 0), (1, 1), groups)
    return g.add(operator, (x,), (channels, channels // groups, 2, 2), bias)


def _dynamic(draw: st.DrawFn, g: GraphBuilder, x: str) -> str:
    """A convolution by weights that are normed in every pass, or by those of the images."""
    channels = g.shape(x)[1]
    if draw(st.booleans()):
        weight = g.add(Constant((4, channels, 1, 1)), bias=True)
        weight = g.add(Divide(), (weight, g.add(Norm((1, 2, 3), True), (weight,))))
    else:
        means = g.add(Mean((0, 2, 3)), (x,))
        rows = g.add(Reshape((1, channels, 1, 1)), (means,))
        weight = g.add(Expand((4, channels, 1, 1)), (rows,))
    return g.add(DynamicConvolution((1, 1), (0, 0), (1, 1), 1), (x, weight))


@st.composite
def all_blocks(draw: st.DrawFn) -> LayerGraph:
    """Every block there is, each on the same images, and what they give added up."""
    g = GraphBuilder()
    x = g.input(2, 4, 4, 4)
    sums = []
    for name in sorted(set(RICH_BLOCKS)):
        y = _block(draw, g, x, [x], name)
        sums.append(g.pool(g.add(Reshape((2, _size(g.shape(y)) // 2, 1, 1)), (y,))))
    g.add(Concatenate(1), tuple(sums))
    return g.graph()


def _sides(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[int, int]:
    """Another height and width for as many elements."""
    elements = shape[2] * shape[3]
    height = draw(st.sampled_from([n for n in range(1, elements + 1) if elements % n == 0]))
    return height, elements // height


def _viewed(draw: st.DrawFn, g: GraphBuilder, x: str) -> str:
    """One or two operators on a view, and back: what is kept is kept under another shape."""
    shape = g.shape(x)
    tokens = (shape[0], shape[1], shape[2] * shape[3])
    y = g.add(Reshape(draw(st.sampled_from([tokens, (*tokens, 1)]))), (x,))
    for _ in range(draw(st.integers(1, 2))):
        y = g.add(draw(st.sampled_from(UNARY)), (y,))
    return g.add(Reshape((*shape[:2], *_sides(draw, shape))), (y,))


def _embedded(g: GraphBuilder, x: str) -> str:
    """Rows of a table by what the samples have for tokens: whatever they are, it is the first."""
    n, c = g.shape(x)[:2]
    means = g.add(Mean(tuple(range(1, len(g.calls[0].shape)))), (g.calls[0].name,))
    tokens = g.add(Scale(0.0), (means,))
    rows = g.add(Embedding(), (g.add(Constant((3, c)), bias=True), tokens))
    return g.add(Add(), (x, g.add(Reshape((n, c, 1, 1)), (rows,))))


def _gate(g: GraphBuilder, x: str) -> str:
    """Squeeze and excitation."""
    pooled = g.add(Mean((2, 3), keep_dimensions=True), (x,))
    scale = g.add(Sigmoid(), (g.conv(pooled, g.shape(x)[1], 1),))
    return g.add(Multiply(), (x, scale))


def _attention(g: GraphBuilder, x: str) -> str:
    """Positions attend to one another; layer norm before."""
    shape = g.shape(x)
    width = shape[2] * shape[3]
    tokens = g.add(Reshape((*shape[:2], width)), (x,))
    tokens = g.add(LayerNorm(1, 1e-5), (tokens,), (width,), True)
    query, key = g.linear(tokens, width), g.linear(tokens, width, bias=False)
    scores = g.add(MatMul(transpose_b=True), (query, key))
    mixed = g.add(MatMul(), (scores, tokens))
    return g.add(Reshape(shape), (mixed,))


def _halves(g: GraphBuilder, x: str) -> str:
    """Two slices, one of them transformed, put back together."""
    half = g.shape(x)[1] // 2
    first = g.add(Slice(1, 0, half), (x,))
    second = g.add(Slice(1, half, 2 * half), (x,))
    return g.add(Concatenate(1), (g.relu(first), second))


@st.composite
def plans(draw: st.DrawFn, graph: LayerGraph) -> UpdatePlan:
    """Any plan of `graph`: few layers are as likely as many."""
    share = draw(st.integers(0, 3))
    subsets, biases = [], set()
    for name, layer in graph.layers.items():
        axes = [a for a in AXES if graph.selectable_channels(name, a)]
        if axes and draw(st.integers(0, 3)) <= share:
            axis = draw(st.sampled_from(axes))
            count = graph.selectable_channels(name, axis)
            channels = draw(st.sets(st.integers(0, count - 1), min_size=1))
            subsets.append(ChannelSubset(name, axis, tuple(channels)))
        if layer.bias and draw(st.integers(0, 3)) <= share:
            biases.add(name)
    return UpdatePlan(tuple(subsets), frozenset(biases))


@st.composite
def steps(draw: st.DrawFn, graph: LayerGraph) -> TrainingStep:
    """Any way of stepping whose pass fits the batch of `graph`."""
    passes = draw(st.integers(1, 2))
    return TrainingStep(
        batch=graph.batch * passes,
        micro_batch=graph.batch,
        optimizer=draw(st.sampled_from(sorted(OPTIMIZER_STATES))),
        update=draw(st.sampled_from(["immediate", "deferred"])),
        bits=draw(
            st.sampled_from([BitWidths(), BitWidths(8, 8, 32, 32), BitWidths(32, 16, 16, 32)])
        ),
        recompute=tuple(name for name in cut_calls(graph) if draw(st.booleans())),
    )
