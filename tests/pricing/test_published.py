"""Figures that papers print, reproduced."""

import pytest

from costsim.ir.operators import Axis
from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.ir.program import compile_program
from costsim.ir.step import TrainingStep
from costsim.models.networks import NETWORKS
from costsim.models.networks.graph import architecture_graph
from costsim.pricing.accounting.autograd import autograd_memory
from costsim.pricing.accounting.sparse_update import SCHEMES, SparseUpdateScheme, scheme_plan
from costsim.pricing.accounting.tiny_training import tiny_training_bytes
from costsim.pricing.cost import price

KB = 1024
"""Of the tiny-training tables."""
MB = 2**20
"""Of TinyTrain's tables."""


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: f"{s.network}-{s.size_kb}kB")
def test_sparse_update_scheme_sizes(scheme: SparseUpdateScheme) -> None:
    """Labels are rounded down, so the size is less than 1 kB above its label."""
    graph = architecture_graph(NETWORKS[scheme.network].without_feature_mix())
    size = tiny_training_bytes(graph, scheme_plan(graph, scheme)) / KB
    assert scheme.size_kb <= size < scheme.size_kb + 1


@pytest.mark.parametrize("scheme", SCHEMES[-2:], ids=lambda s: s.network)
def test_scheme_size_hardly_depends_on_the_feature_mix(scheme: SparseUpdateScheme) -> None:
    graph = architecture_graph(scheme.network)
    size = tiny_training_bytes(graph, scheme_plan(graph, scheme)) / KB
    assert scheme.size_kb <= size < scheme.size_kb + 1


def test_the_papers_sparse_update_is_the_scheme_of_99_kb() -> None:
    """TinyTrain's paper: 11.9 M backward MACs on MCUNet, as if deeper biases were left alone."""
    graph = architecture_graph("mcunet-5fps", resolution=128)
    place = {name: number for number, name in enumerate(graph.layers)}
    macs = {}
    for scheme in (scheme for scheme in SCHEMES if scheme.network == "mcunet-5fps"):
        plan = scheme_plan(graph, scheme)
        first = min(place[subset.layer] for subset in plan.subsets)
        near = UpdatePlan(plan.subsets, frozenset(b for b in plan.biases if place[b] >= first))
        macs[scheme.size_kb] = [
            price(compile_program(graph, one, TrainingStep())).macs.backward for one in (near, plan)
        ]
    assert [size for size, (near, _) in macs.items() if round(near / 1e6, 1) == 11.9] == [99]
    assert macs[99] == [11_882_240, 12_291_840]
    assert max(macs) == 148
    assert round(macs[148][1] / 1e6, 1) == 13.4


def test_tiny_training_last_twelve_layers() -> None:
    """Weights and biases of the last 12 layers of mcunet-5fps: 448 kB."""
    graph = architecture_graph("mcunet-5fps")
    names = list(graph.layers)[-12:]
    subsets = []
    for name in names:
        axis: Axis = "input" if graph.selectable_channels(name, "input") else "output"
        count = graph.selectable_channels(name, axis)
        subsets.append(ChannelSubset(name, axis, tuple(range(count))))
    size = tiny_training_bytes(graph, UpdatePlan(tuple(subsets), frozenset(names))) / KB
    assert 448 <= size < 449


def test_full_train_backward_macs() -> None:
    """MCUNet, FullTrain: 44.9 M, which counts the input gradient of the first layer too.

    Nothing reads that gradient, so a step that computes only what it needs does without.
    """
    graph = architecture_graph("mcunet-5fps")
    convolutions = [graph[layer.calls[0]] for layer in graph.layers.values()]
    backward = sum(
        call.operator.input_gradient_macs(graph.shapes(call), 0)
        + call.operator.weight_gradient_macs(graph.shapes(call))
        for call in convolutions
    )
    assert backward == 2 * graph.forward_macs()
    assert backward == pytest.approx(44.9e6, rel=0.005)


def test_full_train_memory() -> None:
    """MCUNet, FullTrain at batch 100 with Adam in stock PyTorch, batch norm not folded: 906 MB."""
    graph = architecture_graph("mcunet-5fps", batch=100, batch_norm=True)
    memory = autograd_memory(graph, UpdatePlan.full(graph), optimizer_states=2)
    assert memory.total_bytes / MB == pytest.approx(906, rel=0.02)


def test_full_train_kept_activations() -> None:
    """Convolution, batch norm and ReLU6 each keep their fp32 input: 896 MiB before parameters."""
    graph = architecture_graph("mcunet-5fps", batch=100, batch_norm=True)
    kept = {
        call.inputs[0]
        for call in graph.calls
        if call.operator.kind in ("convolution", "batch_norm", "clamp")
    }
    expected = 4 * sum(
        100 * size
        for size in (
            graph[name].shape[1] * graph[name].shape[2] * graph[name].shape[3] for name in kept
        )
    )
    memory = autograd_memory(graph, UpdatePlan.full(graph))
    assert memory.kept_bytes == expected
    assert memory.kept_bytes / 1e6 == pytest.approx(939, abs=0.5)
