"""The importance value, its JSON form, and the layer score of TinyTrain."""

import json
import math
import subprocess
import sys

import pytest
from graphs import GraphBuilder, chain, graphs
from hypothesis import assume, given
from hypothesis import strategies as st

from costsim.base.errors import InputError
from costsim.ir.graph import LayerGraph
from costsim.ir.operators import BatchNorm, UpdateKind
from costsim.models.networks.graph import architecture_graph
from costsim.problem.importance import (
    DEFAULT_INSPECTED_LAYERS,
    ChannelScores,
    Importance,
    inspected_layers,
    layer_macs,
    tinytrain_scores,
)
from costsim.run.criteria import CRITERIA


def scored(graph: LayerGraph, *axes: UpdateKind) -> Importance:
    return CRITERIA["random"].score(
        graph, {}, layers=inspected_layers(graph, None), axes=axes or ("output",), seed=1
    )


def small() -> LayerGraph:
    """A reused 3x3 layer, a depthwise one, a pointwise one without bias, a linear one."""
    g = GraphBuilder()
    x = g.conv(g.input(2, 4, 6, 6), 4, 3, layer="twice")
    x = g.conv(g.relu(x), 4, 3, layer="twice")
    x = g.conv(x, 4, 3, groups=4, layer="depthwise")
    x = g.conv(x, 6, 1, bias=False, layer="pointwise")
    g.linear(g.pool(x), 3)
    return g.graph()


def test_scores_and_potentials() -> None:
    importance = Importance(
        "fisher",
        (ChannelScores("a", "output", (1.0, 2.5)), ChannelScores("a", "input", (0.0,))),
    )
    assert importance.layers == ("a",)
    assert importance.axes("a") == ("output", "input")
    assert importance.scores("a").tolist() == [1.0, 2.5]
    assert importance.potential("a") == 1.0 + 2.5
    assert importance.potential("a", "input") == 0
    with pytest.raises(ValueError, match="read-only"):
        importance.scores("a")[0] = 3
    with pytest.raises(InputError, match="layer 'b': its output channels have no fisher scores"):
        importance.scores("b")


@given(graphs())
def test_json_round_trip(graph: LayerGraph) -> None:
    assume(any(layer_macs(graph, name) for name in graph.layers))
    importance = scored(graph, "output", "input", "bias")
    again = Importance.from_json(json.loads(json.dumps(importance.to_json())))
    assert again == importance
    assert hash(again) == hash(importance)
    again.check(graph)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1e-9])
def test_scores_are_finite_and_not_negative(bad: float) -> None:
    with pytest.raises(InputError, match=r"layer 'conv': the score of output channel 1 is"):
        ChannelScores("conv", "output", (1.0, bad))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "costsim.plan/1"}, "'costsim.importance/1' is needed"),
        ({"criterion": None, "layers": [{"axis": "output"}]}, "key 'name' is missing"),
        ({"layers": [{"name": "a", "axis": "output"}]}, "layer 'a': key 'scores' is missing"),
        ({"layers": [{"name": "a", "axis": "depth", "scores": [1]}]}, "axis 'depth'"),
        ({"layers": [{"name": "a", "axis": "output", "scores": ["x"]}]}, "layer 'a'"),
        ({"layers": [{"name": "a", "axis": "output", "scores": []}]}, "layer 'a': no scores"),
        ({"layers": [{"name": "a", "axis": "output", "scores": [1]}] * 2}, "scored twice"),
        ({"layers": 3}, "importance: "),
        ({"samples": "many"}, "importance: "),
    ],
)
def test_malformed_documents(change: dict[str, object], message: str) -> None:
    document = {**Importance("fisher", ()).to_json(), **change}
    with pytest.raises(InputError, match=message):
        Importance.from_json(document)
    missing = {key: value for key, value in document.items() if key != "seed"}
    with pytest.raises(InputError):
        Importance.from_json(missing)


def test_check_names_the_layer() -> None:
    graph = chain(channels=(4, 6))
    name = next(iter(graph.layers))
    with pytest.raises(InputError, match="layer 'x' is not in the model"):
        Importance("c", (ChannelScores("x", "output", (1.0,)),)).check(graph)
    with pytest.raises(
        InputError, match=f"layer '{name}' has 4 selectable output channels; 3 scores given"
    ):
        Importance("c", (ChannelScores(name, "output", (1.0,) * 3),)).check(graph)


@pytest.mark.parametrize(
    ("scores", "told"),
    [((1.0, 2.0), "has one bias; 2 scores of it given"), ((1.0,), "has no bias; 1 score of")],
)
def test_a_bias_has_one_score_and_no_bias_none(scores: tuple[float, ...], told: str) -> None:
    graph = small()
    layer = "pointwise" if "no bias" in told else "twice"
    with pytest.raises(InputError, match=f"layer '{layer}' {told}"):
        Importance("c", (ChannelScores(layer, "bias", scores),)).check(graph)


def test_layer_macs_count_every_call_for_one_sample() -> None:
    graph = small()
    assert layer_macs(graph, "twice") == 2 * (4 * 4 * 9) * 36
    assert layer_macs(graph, "depthwise") == 4 * 9 * 36
    assert layer_macs(graph, "pointwise") == 6 * 4 * 36
    total = sum(layer_macs(graph, name) for name in graph.layers)
    assert total == graph.forward_macs() // graph.batch


def test_tinytrain_scores_by_hand() -> None:
    graph = small()
    importance = scored(graph)
    scores = tinytrain_scores(importance, graph)
    assert tuple(scores) == tuple(graph.layers)
    parameters = {"twice": 4 * 4 * 9 + 4, "depthwise": 4 * 9 + 4, "pointwise": 6 * 4}
    macs = {"twice": 2 * 4 * 4 * 9 * 36, "depthwise": 4 * 9 * 36, "pointwise": 6 * 4 * 36}
    for name, size in parameters.items():
        share = (size / parameters["twice"]) * (macs[name] / macs["twice"])
        assert scores[name] == pytest.approx(importance.potential(name) / share, rel=1e-12)


@given(st.integers(1, 4))
def test_tinytrain_scores_do_not_depend_on_the_batch(batch: int) -> None:
    one, many = chain(), chain(batch=batch)
    assert tinytrain_scores(scored(one), one) == tinytrain_scores(scored(many), many)


def test_a_normalisation_counts_a_multiplication_an_element() -> None:
    g = GraphBuilder()
    x = g.conv(g.input(2, 3, 4, 4), 4)
    norm = g.add(BatchNorm(1e-5), (x,), (4,), True, "norm")
    g.pool(norm)
    graph = g.graph()
    assert "norm" not in inspected_layers(graph)
    importance = Importance(
        "c", (ChannelScores(x, "output", (1.0,) * 4), ChannelScores("norm", "output", (1.0,) * 4))
    )
    sizes = {x: 4 * 3 + 4, "norm": 4 + 4}
    macs = {x: 4 * 3 * 16, "norm": 4 * 16}
    scores = tinytrain_scores(importance, graph)
    assert scores[x] == pytest.approx(4.0)
    share = (sizes["norm"] / sizes[x]) * (macs["norm"] / macs[x])
    assert scores["norm"] == pytest.approx(4.0 / share)


def test_inspected_layers() -> None:
    graph = architecture_graph("mcunet-5fps")
    every = inspected_layers(graph, None)
    assert every == tuple(graph.layers)
    assert inspected_layers(graph) == every[-DEFAULT_INSPECTED_LAYERS:]
    assert inspected_layers(graph, 3) == every[-3:]
    assert inspected_layers(graph, 10_000) == every
    with pytest.raises(InputError, match="inspected layers: 0; at least 1"):
        inspected_layers(graph, 0)
    g = GraphBuilder()
    g.relu(g.input(1, 2, 3, 3))
    with pytest.raises(InputError, match="no convolution and no linear layer"):
        inspected_layers(g.graph())


def test_importing_needs_no_torch() -> None:
    code = (
        "import sys, costsim.problem.importance, costsim.run.criteria, costsim.data; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
