"""The published accountings: by hand on small graphs, against autograd itself on networks."""

import random
from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from operator_cases import TORCH, WAYS, Called, called, operator_of
from torch import nn
from torch.nn import functional as F  # noqa: N812
from zoo import WITH_VIEWS, ZOO

from costsim.base.errors import InputError
from costsim.ir.graph import LayerGraph
from costsim.ir.operators import OPERATORS
from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.models.networks import NETWORKS
from costsim.models.networks.build import build
from costsim.models.networks.graph import architecture_graph
from costsim.models.tokens import taking_tokens
from costsim.models.tracing.capture import Traced, capture
from costsim.pricing.accounting.autograd import SAVED, autograd_memory, saved_bytes
from costsim.pricing.accounting.sparse_update import (
    SCHEMES,
    SparseUpdateScheme,
    input_channel_norms,
    scheme_plan,
)
from costsim.pricing.accounting.tiny_training import tiny_training_bytes, tiny_training_terms

EVERY = {**ZOO, **WITH_VIEWS}

MCUNET = architecture_graph("mcunet-5fps")


def random_plan(graph: LayerGraph, source: random.Random, axes: tuple[str, ...]) -> UpdatePlan:
    """A few layers with random channels, and a few biases."""
    subsets = []
    for name in source.sample(list(graph.layers), min(4, len(graph.layers))):
        axis = source.choice(axes)
        if count := graph.selectable_channels(name, axis):  # type: ignore[arg-type]
            channels = source.sample(range(count), source.randint(1, count))
            subsets.append(ChannelSubset(name, axis, tuple(channels)))  # type: ignore[arg-type]
    biased = [name for name, layer in graph.layers.items() if layer.bias]
    return UpdatePlan(
        tuple(subsets), frozenset(source.sample(biased, min(len(biased), source.randint(0, 4))))
    )


# tiny-training


def test_tiny_training_by_hand() -> None:
    expand, depthwise = "blocks.1.expand", "blocks.1.depthwise"  # 8 -> 32 at 64x64, stride 2
    plan = UpdatePlan(
        (ChannelSubset(expand, "input", (0, 5)), ChannelSubset(depthwise, "output", (1, 2, 3))),
        frozenset({expand}),
    )
    expected = (
        (2 * 32 + 2 * 64 * 64)  # two input channels: weights, kept input
        + (3 * 3 * 3 + 3 * 64 * 64)  # three channels of a 3x3 depthwise
        + (32 * 4 + 32 * 64 * 64 // 8)  # bias and mask
        + 160  # the classifier's input
    )
    assert tiny_training_bytes(MCUNET, plan) == expected


def test_tiny_training_output_channels_keep_the_whole_input() -> None:
    plan = UpdatePlan((ChannelSubset("blocks.1.expand", "output", (4,)),))
    assert tiny_training_bytes(MCUNET, plan) == 8 + 8 * 64 * 64 + 160


@pytest.mark.parametrize("batch", [1, 7])
@given(seed=st.integers(0, 10_000))
def test_tiny_training_is_the_sum_over_convolutions(batch: int, seed: int) -> None:
    graph = architecture_graph("mcunet-5fps", batch=batch)
    plan = random_plan(graph, random.Random(seed), ("output", "input"))
    bits = 160 * 8
    for name, layer in graph.layers.items():
        call = graph[layer.calls[0]]
        _, channels_in, height, width = graph.shapes(call).inputs[0]
        assert layer.weight is not None
        out, _, k, _ = layer.weight.shape
        depthwise = layer.weight.shape[1] == 1 and channels_in == out
        if subset := plan.by_layer.get(name):
            count = len(subset.channels)
            if depthwise:
                weights, kept = count * k * k, count
            elif subset.axis == "input":
                weights, kept = out * count * k * k, count
            else:
                weights, kept = count * channels_in * k * k, channels_in
            bits += 8 * (weights + kept * height * width)
        if name in plan.biases:
            bits += 32 * out + prod(call.shape[1:])
    assert tiny_training_bytes(graph, plan) == bits // 8
    assert tiny_training_terms(graph).price(plan) == bits // 8


def test_tiny_training_of_nothing_is_the_classifiers_input() -> None:
    assert tiny_training_bytes(MCUNET, UpdatePlan()) == 160


def test_tiny_training_refuses_a_plan_for_another_model() -> None:
    with pytest.raises(InputError, match=r"layer 'mix' is not in the model"):
        tiny_training_bytes(MCUNET, UpdatePlan(biases=frozenset({"mix"})))


# the schemes


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: f"{s.network}-{s.size_kb}kB")
def test_scheme_plan_follows_the_ratios(scheme: SparseUpdateScheme) -> None:
    graph = architecture_graph(NETWORKS[scheme.network].without_feature_mix())
    plan = scheme_plan(graph, scheme)
    names = list(graph.layers)
    assert len(names) == scheme.convolutions
    assert plan.biases == set(names[-scheme.biases :])
    for position, ratio in scheme.ratios.items():
        channels = graph.shapes(graph[names[position]]).inputs[0][1]
        subset = plan.by_layer.get(names[position])
        assert (len(subset.channels) if subset else 0) == int(ratio * channels)
    assert {subset.layer for subset in plan.subsets} <= plan.biases


def test_scheme_plan_takes_the_largest_norms_first() -> None:
    scheme = SCHEMES[0]
    names = list(MCUNET.layers)
    source = random.Random(0)
    norms = {
        name: [source.random() for _ in range(MCUNET.shapes(MCUNET[name]).inputs[0][1])]
        for name in names
    }
    plan = scheme_plan(MCUNET, scheme, norms)
    assert plan.by_layer
    for subset in plan.subsets:
        assert subset.axis == "input"
        chosen = [norms[subset.layer][channel] for channel in subset.channels]
        others = set(norms[subset.layer]) - set(chosen)
        assert min(chosen) > max(others)


def test_input_channel_norms_are_torchs() -> None:
    network = build("mcunet-5fps")
    weights = {name: value.detach().numpy() for name, value in network.named_parameters()}
    norms = input_channel_norms(MCUNET, weights)
    assert norms.keys() == MCUNET.layers.keys()
    for spec, convolution, _ in network.convolutions():
        dimensions = (1, 2, 3) if spec.groups > 1 else (0, 2, 3)
        expected = torch.linalg.vector_norm(convolution.weight.detach(), dim=dimensions)
        torch.testing.assert_close(torch.tensor(norms[spec.name]), expected)
    assert scheme_plan(MCUNET, SCHEMES[0], norms) != scheme_plan(MCUNET, SCHEMES[0])


def test_scheme_plan_on_depthwise_selects_channels() -> None:
    scheme = SparseUpdateScheme("mcunet-5fps", 0, 42, 1, {40: 0.5})
    (subset,) = scheme_plan(MCUNET, scheme).subsets
    assert (subset.layer, subset.axis) == ("blocks.13.depthwise", "output")


def test_scheme_plan_refuses_what_does_not_fit() -> None:
    with pytest.raises(InputError, match="for 60 convolutions; the model has 42"):
        scheme_plan(MCUNET, SCHEMES[-1])
    with pytest.raises(InputError, match="has no bias to update"):
        scheme_plan(architecture_graph("mcunet-5fps", batch_norm=True), SCHEMES[0])
    with pytest.raises(InputError, match="40 input channels; 0 norms were given"):
        scheme_plan(MCUNET, SCHEMES[1], {})


# autograd


def test_every_operator_says_what_autograd_saves() -> None:
    assert SAVED.keys() == OPERATORS.keys()


def measured_bytes(model: nn.Module, x: torch.Tensor, traced: Traced, plan: UpdatePlan) -> int:
    """Distinct storages that autograd saves, the model's own left out."""
    layers = traced.graph.layers
    trained = {layers[name].weight for name in plan.by_layer}
    trained |= {layers[name].bias for name in plan.biases}
    pointers = {
        traced.tensors[parameter.name].untyped_storage().data_ptr()
        for parameter in trained
        if parameter is not None
    }
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.untyped_storage().data_ptr() in pointers)
    own = {
        tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())
    }
    saved: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(x)
    assert output.shape[0] == x.shape[0]
    return sum(storage.nbytes() for storage in saved.values())


def plans(graph: LayerGraph) -> list[UpdatePlan]:
    source = random.Random(5)
    few = [random_plan(graph, source, ("output",)) for _ in range(6)]
    return [UpdatePlan(), UpdatePlan.full(graph), *few]


@pytest.mark.parametrize(
    ("name", "batch_norm"),
    [
        ("mcunet-5fps", False),
        ("mcunet-5fps", True),
        pytest.param("mbv2-w0.35", True, marks=pytest.mark.slow),
        ("proxyless-w0.3", False),
    ],
)
def test_saved_bytes_are_what_autograd_saves(name: str, batch_norm: bool) -> None:
    model = build(name, batch_norm=batch_norm)
    x = torch.zeros(2, 3, 64, 64)
    traced = capture(model, x)
    for plan in plans(traced.graph):
        measured = measured_bytes(model, x, traced, plan)
        assert sum(saved_bytes(traced.graph, plan).values()) == measured


@pytest.mark.parametrize("name", sorted(EVERY.keys() - {"small_vit"}))
def test_saved_bytes_of_other_networks(name: str) -> None:
    model = EVERY[name]()
    x = torch.zeros(2, 3, 64, 64)
    traced = capture(model, x)
    for plan in plans(traced.graph):
        measured = measured_bytes(model, x, traced, plan)
        assert sum(saved_bytes(traced.graph, plan).values()) == measured


@pytest.mark.parametrize(("name", "which"), WAYS)
def test_saved_bytes_of_one_operator(name: str, which: int) -> None:
    model, x = called(name, which)
    traced = capture(model, x)
    plan = UpdatePlan.full(traced.graph)
    measured = measured_bytes(model, x, traced, plan)
    assert sum(saved_bytes(traced.graph, plan).values()) == measured


def centred_and_normed(x: torch.Tensor) -> torch.Tensor:
    """What is left: no network here has it, and no case is this alone."""
    return F.group_norm(x - 2.0 * x.mean(1, keepdim=True), 2)


def test_saved_bytes_of_what_is_centred_and_normed() -> None:
    model, x = Called(centred_and_normed, (2, 4, 5, 6)), torch.ones(2, 4, 5, 6)
    traced = capture(model, x)
    plan = UpdatePlan.full(traced.graph)
    measured = measured_bytes(model, x, traced, plan)
    assert sum(saved_bytes(traced.graph, plan).values()) == measured


class Words(nn.Module):
    """The mean of the rows that tokens choose, times what else is trained."""

    input_tokens = 9

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.gain = nn.Embedding(9, 4), nn.Parameter(torch.ones(4))
        self.eval()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens `[N, length]` to `[N, 4]`."""
        mean: torch.Tensor = self.rows(tokens).mean(1)
        return mean * self.gain


def test_saved_bytes_of_a_look_up_by_tokens() -> None:
    model, x = taking_tokens(Words()), torch.tensor([[0.0, 8, 8], [1, 2, 3]])
    traced = capture(model, x)
    plan = UpdatePlan.full(traced.graph)
    measured = measured_bytes(model, x, traced, plan)
    assert sum(saved_bytes(traced.graph, plan).values()) == measured


def test_every_operator_is_measured() -> None:
    """By itself or in a network: most are taken to save what our gradients read."""
    x = torch.zeros(2, 4, 5, 6)
    graphs = [capture(make(), torch.zeros(2, 3, 32, 32)).graph for make in EVERY.values()]
    graphs.append(capture(Called(centred_and_normed, (2, 4, 5, 6)), x).graph)
    graphs.append(capture(Words(), x[0, 0].long()).graph)
    seen = {call.operator.kind for graph in graphs for call in graph.calls}
    assert OPERATORS.keys() - seen - {operator_of(name).kind for name in TORCH} == set()


def test_saved_bytes_of_attention_bound_the_fused_kernel() -> None:
    model = ZOO["small_vit"]()
    x = torch.zeros(2, 3, 32, 32)
    traced = capture(model, x)
    for plan in plans(traced.graph):
        measured = measured_bytes(model, x, traced, plan)
        counted = sum(saved_bytes(traced.graph, plan).values())
        assert measured <= counted <= 1.25 * measured


def test_autograd_parts() -> None:
    graph = architecture_graph("mcunet-5fps")
    plan = UpdatePlan((ChannelSubset("blocks.13.project", "output", (0,)),))
    memory = autograd_memory(graph, plan, optimizer_states=2)
    weight = 160 * 576
    assert memory.kept_bytes == 4 * 576 * 4 * 4  # the input of that layer and nothing else
    assert memory.gradient_bytes == 4 * weight  # dense, whatever the subset
    assert memory.optimizer_bytes == 2 * 4 * weight
    assert memory.parameter_bytes == 4 * sum(parameter.size for parameter in graph.parameters)
    assert memory.total_bytes == 4 * 576 * 16 + 3 * 4 * weight + memory.parameter_bytes


def test_autograd_scales_with_the_batch() -> None:
    one, ten = (architecture_graph("mcunet-5fps", batch=batch) for batch in (1, 10))
    plan = UpdatePlan.full(one)
    assert autograd_memory(ten, plan).kept_bytes == 10 * autograd_memory(one, plan).kept_bytes
