"""What choosing costs: the bytes that scoring holds, by hand and by law."""

import pytest
from graphs import GraphBuilder, graphs, steps
from hypothesis import given, settings
from hypothesis import strategies as st

from costsim.device import load_device
from costsim.ir.graph import LayerGraph
from costsim.ir.plan import UpdatePlan
from costsim.ir.program import FISHER_WORK, ScoringWork, compile_program, memory_timeline
from costsim.ir.step import TrainingStep
from costsim.pricing.choosing import scoring_cost
from costsim.run.criteria import CRITERIA

TARGET = load_device("pi-zero-2").target()
WEIGHTS = ScoringWork(weight_gradients=True)
AGAIN = ScoringWork(rounds=2, weight_gradients=True, again=True)

POSITIONS = 4 * 4
MASK = 4 * POSITIONS // 8
"""Of the non-linearity: a bit an element."""


def two_layers() -> LayerGraph:
    """Three channels to four, a ReLU, and four to five; positions 4×4."""
    g = GraphBuilder()
    x = g.relu(g.conv(g.input(1, 3, 4, 4), 4, bias=False, layer="first"))
    g.conv(x, 5, bias=False, layer="second")
    return g.graph()


def peak(graph, layers, work=FISHER_WORK, axes=("output",), step=None):
    return scoring_cost(graph, step or TrainingStep(), layers, 8, TARGET, work, axes).peak_bytes


@pytest.mark.parametrize(
    ("layers", "work", "axes", "values", "gradients"),
    [
        # at the loss: what `second` wrote and its gradient, and what `first` wrote, as a copy,
        # since the ReLU works in place
        (("first", "second"), FISHER_WORK, ("output",), 5 + 5 + 4, 0),
        # nothing of `first`: no mask either, and no gradient gets there
        (("second",), FISHER_WORK, ("output",), 5 + 5, None),
        # what the layers have read instead: the image and the ReLU's
        (("first", "second"), FISHER_WORK, ("input",), 5 + 5 + 3 + 4, 0),
        (("first", "second"), FISHER_WORK, ("output", "input"), 5 + 5 + 4 + 3 + 4, 0),
        # biases take gradients alone
        (("first", "second"), FISHER_WORK, ("bias",), 5 + 5, 0),
        (("first", "second"), AGAIN, ("bias",), 5 + 5, 0),
        # the image, the ReLU's, and the gradients of both weights
        (("first", "second"), WEIGHTS, ("output",), 5 + 5 + 3 + 4, 4 * 3 + 5 * 4),
        # and where `second` runs again: its gradient and its output, not yet what it wrote first
        (("first", "second"), AGAIN, ("output",), 5 + 5 + 3 + 4, 4 * 3 + 5 * 4),
    ],
)
def test_the_bytes_of_two_layers(layers, work, axes, values, gradients):
    mask = 0 if gradients is None else MASK
    expected = 4 * POSITIONS * values + mask + 4 * (gradients or 0)
    assert peak(two_layers(), layers, work, axes) == expected


@settings(max_examples=60)
@given(st.data())
def test_scoring_holds_no_less_than_a_prediction_and_more_for_more_layers(data):
    graph = data.draw(graphs())
    scorable = [n for n in graph.layers if graph.selectable_channels(n, "output")]
    if not scorable:
        return
    layers = data.draw(st.lists(st.sampled_from(scorable), min_size=1, unique=True))
    work = data.draw(st.sampled_from([FISHER_WORK, WEIGHTS, AGAIN]))
    step = data.draw(steps(graph))
    forward = memory_timeline(compile_program(graph, UpdatePlan(), step)).peak_bytes
    fewer = peak(graph, layers[:1], work, step=step)
    assert forward <= fewer <= peak(graph, layers, work, step=step)


def test_every_criterion_that_sees_samples_says_what_it_takes():
    graph = two_layers()
    for criterion in CRITERIA.values():
        if criterion.uses_samples:
            cost = scoring_cost(graph, TrainingStep(), ("first",), 8, TARGET, criterion.work)
            assert cost.peak_bytes > 0
            assert cost.latency_s.value > 0
