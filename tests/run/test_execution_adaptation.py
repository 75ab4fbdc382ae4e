"""Scoring, and all other phases of an adaptation, run: as predicted to the byte and the MAC."""

from collections import defaultdict
from dataclasses import replace
from typing import Any

import pytest
import torch
from adapting import small_backbone, small_task
from graphs import graphs
from hypothesis import given, settings
from hypothesis import strategies as st
from running import (
    Measured,
    copies,
    mean_square,
    random_images,
    random_tensors,
    targets_for,
    with_statistics,
)

from costsim.base.errors import InputError
from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.ir.program import compile_scoring
from costsim.ir.program.adaptation import Scored, Task, compile_adaptation, frozen_cuts
from costsim.ir.recipe import Recipe
from costsim.ir.step import BitWidths, TrainingStep
from costsim.run.criteria import CRITERIA
from costsim.run.execution.executor import Executor

WIDE = BitWidths(64, 64, 64, 64)


class Slopes:
    """A scorer: of every layer the sums over positions of value times gradient, by sample."""

    def __init__(self, graph):
        self.graph, self.found = graph, defaultdict(float)

    def __call__(self, call, read):
        product = read["value"] * read["gradient"]
        shapes = self.graph.shapes(call)
        axis = call.operator.channel_axis(shapes, "output")
        kept = (0, axis % product.dim())
        others = [d for d in range(product.dim()) if d not in kept]
        self.found[call.layer] = self.found[call.layer] + product.sum(others)


def scored(graph, tensors, layers, images, losses):
    """Fisher scores of `layers` by the executor, one sample a pass."""
    program = compile_scoring(graph, TrainingStep(bits=WIDE), layers)
    totals: defaultdict[str, Any] = defaultdict(float)
    for image, loss in zip(images, losses, strict=True):
        slopes, measured = Slopes(graph), Measured(program)
        executor = Executor(program, tensors, observer=measured, scorer=slopes)
        with measured.counter:
            executor.step(image[None].clone(), loss)
        measured.check()
        for layer, slope in slopes.found.items():
            totals[layer] = totals[layer] + slope.square().sum(0)
    return {layer: total / (2 * len(images)) for layer, total in totals.items()}


@pytest.mark.parametrize("count", [1, 3, None])
def test_fisher_scores_of_a_network_by_the_program(count):
    backbone, task = small_backbone(), small_task()
    graph, tensors = backbone.graph(1), backbone.tensors
    before = copies(tensors)
    layers = [n for n in graph.layers if graph.selectable_channels(n, "output")]
    layers = layers[-count:] if count else layers
    images = torch.from_numpy(task.images.copy()).double()
    labels = torch.from_numpy(task.labels.copy())
    wanted = CRITERIA["fisher"].score(
        graph, tensors, images, labels, layers=tuple(layers), loss="cross_entropy"
    )
    losses = [
        lambda output, label=label: torch.nn.functional.cross_entropy(
            output.flatten(1), label[None], reduction="sum"
        )
        for label in labels
    ]
    found = scored(graph, tensors, layers, images, losses)
    assert found.keys() == set(layers)
    for entry in wanted.channels:
        expected = torch.tensor(entry.scores, dtype=torch.float64)
        torch.testing.assert_close(found[entry.layer], expected, rtol=1e-10, atol=1e-14)
    assert all(torch.equal(tensors[name], before[name]) for name in before)


@settings(max_examples=25)
@given(st.data())
def test_any_network_is_scored_in_the_predicted_bytes(data):
    graph = with_statistics(data.draw(graphs()))
    layers = [n for n in graph.layers if graph.selectable_channels(n, "output")]
    if not layers:
        return
    chosen = data.draw(st.lists(st.sampled_from(layers), min_size=1, unique=True))
    step = TrainingStep(batch=graph.batch, bits=WIDE)
    program, seen = compile_scoring(graph, step, chosen), []
    measured = Measured(program)
    executor = Executor(
        program,
        random_tensors(graph),
        loss=mean_square,
        observer=measured,
        scorer=lambda call, read: seen.append((call, read["value"].clone(), read["gradient"])),
    )
    images, targets = random_images(graph, step), targets_for(graph, step)
    with measured.counter:
        executor.step(images, targets)
    measured.check()
    assert {call.layer for call, *_ in seen} == set(chosen)
    for call, value, gradient in seen:
        assert value.shape == gradient.shape == graph[call.name].shape


def test_a_program_that_scores_needs_a_scorer():
    backbone = small_backbone()
    graph = backbone.graph(1)
    layers = [n for n in graph.layers if graph.selectable_channels(n, "output")][-1:]
    program = compile_scoring(graph, TrainingStep(bits=WIDE), layers)
    with pytest.raises(InputError, match="scorer"):
        Executor(program, backbone.tensors)


# The whole adaptation.


@pytest.mark.parametrize("cache_in", ["nothing", "ram"])
def test_every_phase_of_an_adaptation_runs_in_the_predicted_bytes(cache_in):
    """Bytes at every operation, and MACs by cause, of all that happens for a task."""
    backbone = small_backbone()
    graph, layers = backbone.graph(1), tuple(backbone.graph(1).layers)
    plan = UpdatePlan((ChannelSubset(layers[-1], "output", (0, 2)),))
    cut = frozen_cuts(graph, [layers[-1]])[-1]
    recipe = Recipe(iterations=2, copies=2, optimizer="adam")
    if cache_in != "nothing":
        recipe = replace(recipe, cut=cut, cache_in=cache_in)
    step = TrainingStep(3, 1, "adam", bits=WIDE)
    whole = compile_adaptation(
        graph, plan, recipe, Task(3, 2), scored=Scored(layers[-2:]), step=step
    )
    seen = []
    for phase in whole.phases:
        program, measured = phase.program, Measured(phase.program)
        executor = Executor(
            program,
            backbone.tensors,
            learning_rate=0.0,
            loss=mean_square,
            observer=measured,
            scorer=lambda call, _read: seen.append(call.layer),
        )
        images = random_images(program.graph, program.step)
        targets = targets_for(program.graph, program.step)
        with measured.counter:
            executor.step(images, targets)
        measured.check()
    assert set(seen) == set(layers[-2:])
