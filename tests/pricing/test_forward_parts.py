"""What the parts before and behind a cut take, told of the whole and by their own programs."""

import pytest
from graphs import graphs
from hypothesis import given, settings
from hypothesis import strategies as st

from costsim.device import load_device
from costsim.ir.cuts import between, cuts
from costsim.ir.plan import UpdatePlan
from costsim.ir.program import compile_program, memory_timeline
from costsim.ir.step import TrainingStep
from costsim.models.networks.graph import architecture_graph
from costsim.pricing.cost import mac_cost, step_seconds
from costsim.pricing.forward_parts import forward_parts

DEVICES = ["jetson-nano", "pi-zero-2", "stm32f746"]


def forward(graph):
    return compile_program(graph, UpdatePlan(), TrainingStep(graph.batch))


def of_both(graph, target):
    """By cut: what is told of its parts, and what their own programs take."""
    told = forward_parts(forward(graph), target)
    assert list(told) == list(cuts(graph)[1:])
    for cut, parts in told.items():
        for part, alone in zip(
            parts, (between(graph, graph.input, cut), between(graph, cut)), strict=True
        ):
            program = forward(alone)
            assert part.peak_bytes <= memory_timeline(program).peak_bytes
            yield part, step_seconds(program, target).value, mac_cost(program).total


@settings(max_examples=60)
@given(st.data())
def test_a_part_takes_no_less_than_is_told(data):
    graph = data.draw(graphs())
    target = load_device(data.draw(st.sampled_from(DEVICES))).target(None)
    inside = graph.behind(graph.input) | {graph.input}
    nothing_anew = all(call.name in inside for call in graph.calls)
    for part, seconds, macs in of_both(graph, target):
        assert part.seconds <= seconds * (1 + 1e-12)
        assert part.macs <= macs
        if nothing_anew:
            assert part.seconds == pytest.approx(seconds, rel=1e-9)
            assert part.macs == macs


@pytest.mark.parametrize("name", ["mcunet-5fps", "mbv2-w0.35", "proxyless-w0.3"])
def test_the_parts_of_a_built_in_network_take_exactly_that(name):
    graph = architecture_graph(name, batch=1, resolution=64)
    target = load_device("pi-zero-2").target(None)
    for part, seconds, macs in of_both(graph, target):
        assert part.seconds == pytest.approx(seconds, rel=1e-12)
        assert part.macs == macs
