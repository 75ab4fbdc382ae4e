"""MACs against counts made by others: nested loops, torch's flop counter, fvcore."""

import warnings
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
from by_default import by_default
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from zoo import ZOO

from costsim.ir.graph import Call, LayerGraph, Parameter
from costsim.ir.operators import Axis, Convolution, Input, Linear, MatMul, Mean, ReLU
from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.ir.program import Direction, TrainingProgram, build_schedule, compile_program
from costsim.ir.step import TrainingStep
from costsim.models.networks import NETWORKS
from costsim.models.networks.build import build
from costsim.models.networks.graph import architecture_graph
from costsim.pricing.cost import mac_cost

# Nested loops.


def taps(
    operator: Convolution, x: tuple[int, ...], weight: tuple[int, ...], y: tuple[int, ...]
) -> Iterator[tuple[int, int, bool]]:
    """(output channel, input channel, inside the image) of every multiply-add, one after another.

    The three directions of a convolution do the same multiply-adds: `y[o] += w[o, i] * x[i]`
    forward, `dx[i] += w[o, i] * dy[o]` and `dw[o, i] += x[i] * dy[o]` backward.
    """
    in_group, out_group = weight[1], weight[0] // operator.groups
    for _sample in range(y[0]):
        for out in range(y[1]):
            for position in product(*(range(size) for size in y[2:])):
                for inner in range(in_group):
                    for tap in product(*(range(size) for size in weight[2:])):
                        at = [
                            p * stride - padding + t * dilation
                            for p, t, stride, padding, dilation in zip(
                                position,
                                tap,
                                operator.stride,
                                operator.padding,
                                operator.dilation,
                                strict=True,
                            )
                        ]
                        inside = all(0 <= a < size for a, size in zip(at, x[2:], strict=True))
                        yield out, (out // out_group) * in_group + inner, inside


def chain(*operators: tuple[Any, tuple[int, ...] | None], x: tuple[int, ...]) -> LayerGraph:
    """A chain of calls, each named by its number; a weight makes a layer with a bias."""
    calls = [Call("x", Input(x), (), x)]
    for number, (operator, weight) in enumerate(operators):
        name, before = str(number), calls[-1]
        shape = operator.output_shape((before.shape,), weight)
        owned = weight is not None
        calls.append(
            Call(
                name,
                operator,
                (before.name,),
                shape,
                name if owned else None,
                Parameter(f"{name}.weight", weight) if weight else None,
                Parameter(f"{name}.bias", (weight[0],)) if weight else None,
            )
        )
    return LayerGraph(calls)


def program(graph: LayerGraph, *subsets: ChannelSubset, biases: Any = ()) -> TrainingProgram:
    return compile_program(
        graph, UpdatePlan(subsets, frozenset(biases)), TrainingStep(batch=graph.batch)
    )


def macs(made: TrainingProgram, direction: Direction, call: str) -> tuple[int, int]:
    """With padding taps and without."""
    found = [op for op in made.operations if op.direction is direction and op.call == call]
    return sum(op.macs for op in found), sum(op.unpadded_macs for op in found)


CONVOLUTIONS = {
    "dense": (Convolution((1, 1), (1, 1), (1, 1), 1), (5, 3, 3, 3), (2, 3, 5, 4)),
    "stride": (Convolution((2, 2), (1, 1), (1, 1), 1), (4, 3, 3, 3), (1, 3, 7, 6)),
    "stride past the end": (Convolution((3, 2), (0, 0), (1, 1), 1), (2, 3, 2, 2), (1, 3, 7, 7)),
    "dilation": (Convolution((1, 1), (2, 2), (2, 2), 1), (4, 2, 3, 3), (1, 2, 6, 6)),
    "uneven": (Convolution((2, 1), (0, 2), (1, 2), 1), (3, 2, 1, 3), (1, 2, 6, 7)),
    "wide padding": (Convolution((1, 1), (3, 3), (1, 1), 1), (2, 2, 2, 2), (1, 2, 3, 3)),
    "pointwise": (Convolution((1, 1), (0, 0), (1, 1), 1), (6, 4, 1, 1), (2, 4, 3, 3)),
    "grouped": (Convolution((1, 1), (1, 1), (1, 1), 2), (6, 2, 3, 3), (1, 4, 4, 4)),
    "depthwise": (Convolution((2, 2), (2, 2), (1, 1), 4), (4, 1, 5, 5), (2, 4, 7, 7)),
    "depthwise twofold": (Convolution((1, 1), (1, 1), (1, 1), 3), (6, 1, 3, 3), (1, 3, 4, 4)),
    "one dimension": (Convolution((2,), (1,), (2,), 1), (4, 3, 3), (2, 3, 9)),
    "one dimension, depthwise": (Convolution((1,), (2,), (1,), 3), (3, 1, 5), (1, 3, 6)),
    "three dimensions": (
        Convolution((1,) * 3, (1,) * 3, (1,) * 3, 1),
        (2, 2, 3, 3, 3),
        (1, 2, 3, 4, 3),
    ),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution_as_loops_count_it(name: str) -> None:
    operator, weight, x = CONVOLUTIONS[name]
    ones, zeros = (1,) * (len(x) - 2), (0,) * (len(x) - 2)
    before = Convolution(ones, zeros, ones, 1), (x[1], x[1], *ones)
    graph = chain(before, (operator, weight), x=x)
    counted = list(taps(operator, x, weight, graph["1"].shape))
    every = len(counted), sum(inside for *_, inside in counted)

    # the whole of the layer before forces the input gradient of this one
    made = program(graph, ChannelSubset("0", "output", tuple(range(x[1]))))
    assert macs(made, Direction.FORWARD, "1") == every
    assert macs(made, Direction.INPUT_GRADIENT, "1") == every
    assert macs(made, Direction.WEIGHT_GRADIENT, "1") == (0, 0)

    for axis, count in (("output", weight[0]), ("input", graph.selectable_channels("1", "input"))):
        for channels in ({0}, set(range(0, count, 2)), set(range(count))):
            if not count:
                continue
            made = program(graph, ChannelSubset("1", axis, tuple(channels)))  # type: ignore[arg-type]
            place = 0 if axis == "output" else 1
            selected = [one for one in counted if one[place] in channels]
            with_padding, without = macs(made, Direction.WEIGHT_GRADIENT, "1")
            assert with_padding == len(selected)
            assert without == sum(inside for *_, inside in selected)
            assert macs(made, Direction.INPUT_GRADIENT, "1") == (0, 0)


@given(st.data())
def test_drawn_convolutions_as_loops_count_them(data: st.DataObject) -> None:
    draw = data.draw
    rank, groups = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    pairs = [
        (draw(st.integers(1, 3)), draw(st.integers(0, 2)), draw(st.integers(1, 2)),
         draw(st.integers(1, 3)))
        for _ in range(rank)
    ]  # fmt: skip
    stride, padding, dilation, kernel = zip(*pairs, strict=True)
    weight = (groups * draw(st.integers(1, 2)), draw(st.integers(1, 2)), *kernel)
    x = (draw(st.integers(1, 2)), weight[1] * groups,
         *(draw(st.integers(max(1, d * (k - 1) + 1 - 2 * p), 6)) for _, p, d, k in pairs)
    )  # fmt: skip
    operator = Convolution(stride, padding, dilation, groups)
    graph = chain((operator, weight), x=x)
    counted = list(taps(operator, x, weight, graph["0"].shape))
    channels = draw(st.sets(st.integers(0, weight[0] - 1), min_size=1))
    made = program(graph, ChannelSubset("0", "output", tuple(channels)))
    selected = [inside for out, _, inside in counted if out in channels]
    assert macs(made, Direction.FORWARD, "0") == (len(counted), sum(i for *_, i in counted))
    assert macs(made, Direction.WEIGHT_GRADIENT, "0") == (len(selected), sum(selected))


def test_linear_on_tokens_as_loops_count_it() -> None:
    samples, tokens, inputs, outputs = 2, 3, 4, 5
    graph = chain(
        (Linear(), (inputs, inputs)), (Linear(), (outputs, inputs)), x=(samples, tokens, inputs)
    )
    loops = sum(1 for _ in product(*map(range, (samples, tokens, inputs, outputs))))
    made = program(graph, ChannelSubset("0", "output", (1,)), ChannelSubset("1", "input", (0, 3)))
    assert macs(made, Direction.FORWARD, "1") == (loops, loops)
    assert macs(made, Direction.INPUT_GRADIENT, "1") == (loops, loops)
    half = loops * 2 // inputs
    assert macs(made, Direction.WEIGHT_GRADIENT, "1") == (half, half)


def test_product_of_activations_as_loops_count_it() -> None:
    batch, rows, inner, columns = 2, 3, 4, 5
    x = (batch, rows, inner)
    calls = [
        Call("x", Input(x), (), x),
        Call("a", Linear(), ("x",), x, "a", Parameter("a.weight", (inner, inner))),
        Call("b", Linear(), ("x",), x, "b", Parameter("b.weight", (inner, inner))),
        Call("c", MatMul(transpose_b=True), ("a", "b"), (batch, rows, rows)),
        Call("d", Linear(), ("c",), (batch, rows, columns), "d",
             Parameter("d.weight", (columns, rows))),
    ]  # fmt: skip
    loops = sum(1 for _ in product(*map(range, (batch, rows, rows, inner))))
    graph = LayerGraph(calls)
    one = program(graph, ChannelSubset("a", "output", (0,)))
    both = program(graph, ChannelSubset("a", "output", (0,)), ChannelSubset("b", "output", (0,)))
    assert macs(one, Direction.FORWARD, "c") == (loops, loops)
    assert macs(one, Direction.INPUT_GRADIENT, "c") == (loops, loops)
    assert macs(both, Direction.INPUT_GRADIENT, "c") == (2 * loops, 2 * loops)


def test_a_bias_costs_no_macs_of_its_own() -> None:
    pointwise = Convolution((1, 1), (0, 0), (1, 1), 1)
    graph = chain((pointwise, (4, 4, 1, 1)), (ReLU(), None), (Mean((2, 3)), None), x=(1, 4, 3, 3))
    cost = mac_cost(program(graph, biases=("0",)))
    assert (cost.input_gradient, cost.weight_gradient) == (0, 0)


# torch's flop counter: two FLOPs a multiply-add.


class Dense(nn.Module):
    """Dense convolutions, linear layers and products only: where torch counts right."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.middle = nn.Conv2d(8, 8, 3, 1, 2, dilation=2)
        self.tokens = nn.Conv1d(8, 6, 3, padding=1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.tokens(torch.relu(self.middle(torch.relu(self.stem(x)))).flatten(2))
        y = y.transpose(1, 2)
        return self.head((y @ y.transpose(1, 2)) @ y).mean(1)


def flop_counts(model: nn.Module, x: Tensor, *, inputs: bool = False) -> int:
    """MACs of forward and backward as torch counts them."""
    x = x.clone().requires_grad_(inputs)
    with FlopCounterMode(display=False) as counter:
        model(x).sum().backward()
    assert counter.get_total_flops() % 2 == 0
    return counter.get_total_flops() // 2


def full(graph: LayerGraph) -> int:
    cost = mac_cost(compile_program(graph, UpdatePlan.full(graph), TrainingStep(batch=graph.batch)))
    return cost.forward + cost.backward


@pytest.mark.parametrize("batch", [1, 3])
def test_full_step_of_a_dense_network_as_torch_counts_it(batch: int) -> None:
    from costsim.models.tracing import trace

    model = Dense().eval()
    x = torch.randn(batch, 3, 12, 12)
    assert full(trace(model, x)) == flop_counts(model, x)


def test_full_step_of_resnet18_as_torch_counts_it() -> None:
    from costsim.models.tracing import trace

    model, x = ZOO["resnet18"](), torch.randn(2, 3, 32, 32)
    assert full(trace(model, x)) == flop_counts(model, x)


def test_frozen_prefix_as_torch_counts_it() -> None:
    """Only the head is trained: neither of the two counts gradients that nobody needs."""
    from costsim.models.tracing import trace

    model = Dense().eval()
    x = torch.randn(1, 3, 12, 12)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("head"))
    cost = mac_cost(program(trace(model, x), ChannelSubset("head", "output", tuple(range(5)))))
    assert cost.forward + cost.backward == flop_counts(model, x)
    assert cost.input_gradient == 0


def test_torch_overcounts_the_weight_gradient_of_a_depthwise_convolution() -> None:
    """By the number of channels: no reason to follow it, loops (above) say otherwise."""
    channels = 8
    model = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
    x = torch.randn(1, channels, 5, 5)
    from costsim.models.tracing import trace

    graph = trace(model.eval(), x)
    forward = graph.forward_macs()
    assert forward == channels * 9 * 25
    assert full(graph) == 2 * forward
    assert flop_counts(model, x) == forward + channels * forward


# fvcore: one count a multiply-add, forward only.


def fvcore_macs(model: nn.Module, x: Tensor, kinds: tuple[str, ...]) -> int:
    """MACs of the operators in `kinds` for one forward pass."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fvcore and torch.jit have their own to say
        analysis = pytest.importorskip("fvcore.nn").FlopCountAnalysis(model, x)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        counts = analysis.by_operator()
    return int(sum(counts[kind] for kind in kinds))


@pytest.mark.parametrize("name", NETWORKS)
def test_built_in_networks_as_fvcore_counts_them(name: str) -> None:
    module = build(name, seed=0).eval()
    side = NETWORKS[name].resolution
    counted = fvcore_macs(module, torch.randn(1, 3, side, side), ("conv", "linear"))
    assert architecture_graph(name).forward_macs() == counted


# fvcore leaves out convolutions with padding by name, which `tiny` has, and fused attention
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_like"])
@pytest.mark.parametrize("batch", by_default([1, 2], [2]))
def test_other_networks_as_fvcore_counts_them(name: str, batch: int) -> None:
    from costsim.models.tracing import trace

    model, x = ZOO[name](), torch.randn(batch, 3, 32, 32)
    assert trace(model, x).forward_macs() == fvcore_macs(model, x, ("conv", "linear"))


def test_vision_transformer_as_formulas_and_fvcore_count_it() -> None:
    """fvcore does not see inside fused attention; projections and products by formula."""
    from costsim.models.tracing import trace

    size, patch, width, depth, classes = 32, 8, 16, 2, 10
    model, x = ZOO["small_vit"](), torch.randn(1, 3, size, size)
    patches = (size // patch) ** 2
    tokens = patches + 1
    embedding = patches * width * 3 * patch**2
    projections = 4 * tokens * width**2
    products = 2 * tokens**2 * width
    mlp = 2 * tokens * width * 2 * width
    graph = trace(model, x)
    attention = depth * (projections + products)
    assert graph.forward_macs() == embedding + attention + depth * mlp + width * classes
    kept = fvcore_macs(model, x, ("conv", "linear"))
    assert graph.forward_macs() - attention <= kept <= graph.forward_macs()


# Shares.


@pytest.mark.parametrize("name", NETWORKS)
def test_weight_gradients_of_channels_are_their_share_of_the_whole(name: str) -> None:
    graph, step = architecture_graph(name), TrainingStep()
    schedule = build_schedule(graph, step)

    def weight_gradient(layer: str, axis: Axis, channels: range) -> int:
        plan = UpdatePlan((ChannelSubset(layer, axis, tuple(channels)),))
        return mac_cost(compile_program(graph, plan, step, schedule)).weight_gradient

    axes: tuple[Axis, ...] = ("output", "input")
    for layer in list(graph.layers)[-9::2]:
        call = graph[graph.layers[layer].calls[0]]
        for axis in axes:
            if count := graph.selectable_channels(layer, axis):
                whole = weight_gradient(layer, axis, range(count))
                part = weight_gradient(layer, axis, range(0, count, 3))
                assert whole == call.operator.forward_macs(graph.shapes(call))
                assert part * count == whole * len(range(0, count, 3))
