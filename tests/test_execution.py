"""The executor against autograd, against `torch.optim`, and against the program it runs."""

from dataclasses import replace

import torch
from graphs import graphs, plans, steps
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from running import check_gradients, check_measured, with_statistics

from costsim.step import BitWidths, TrainingStep


@settings(max_examples=200)
@given(st.data())
def test_gradients_of_selected_channels_are_autograds(data):
    graph = with_statistics(data.draw(graphs()))
    assume(graph.parameters)
    drawn = data.draw(steps(graph))
    step = TrainingStep(drawn.batch, drawn.micro_batch, "sgd", drawn.update)
    plan = data.draw(plans(graph))
    check_gradients(graph, plan, step)
    check_gradients(graph, plan, step, torch.float32, 1e-4)


@settings(max_examples=200)
@given(st.data())
def test_live_bytes_and_macs_are_the_programs_at_every_operation(data):
    graph = with_statistics(data.draw(graphs()))
    assume(graph.parameters)
    step = replace(data.draw(steps(graph)), bits=BitWidths())
    check_measured(graph, data.draw(plans(graph)), step)
