"""Bounds by which ways of adapting are told without compiling them, against what they take."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from graphs import graphs
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from problems import scores_for

from costsim.device import load_device
from costsim.ir.cuts import cuts
from costsim.ir.plan import UpdatePlan
from costsim.ir.program.adaptation import Scored, Task
from costsim.ir.recipe import Recipe
from costsim.ir.step import TrainingStep
from costsim.planning.least_usage import LeastUsage
from costsim.planning.task_on_device import Asked
from costsim.planning.ways_at_once import by_first_opened
from costsim.planning.ways_of_adapting import Way
from costsim.problem.budget import Budget
from costsim.problem.problem import Problem

PI = load_device("pi-zero-2")
IMAGES_IN_RAM = PI.model_copy(
    update={"placement": PI.placement.model_copy(update={"support_images": "ram"})}
)
SMALL = PI.model_copy(update={"memory": {
    name: region.model_copy(update={"size": region.size.model_copy(update={"value": 20_000.0})})
    if region.kind == "ram" else region
    for name, region in PI.memory.items()
}})  # fmt: skip
DEVICES = {"card": PI, "images in RAM": IMAGES_IN_RAM, "little RAM": SMALL}
MOST_PLANS = 200


@settings(max_examples=40)
@given(st.data())
def test_an_adaptation_takes_no_less_than_is_told(data):
    graph = data.draw(graphs())
    names = [name for name in graph.layers if graph.selectable_channels(name, "output")]
    device = DEVICES[data.draw(st.sampled_from(sorted(DEVICES)))]
    passes = data.draw(st.integers(1, 3))
    step = TrainingStep(graph.batch * passes, None if passes == 1 else graph.batch, "sgd")
    asked = Asked(
        graph, UpdatePlan(), Task(graph.batch * data.draw(st.integers(1, 4)), 2),
        data.draw(st.sampled_from([None, step])), device,
        scored=data.draw(st.sampled_from([None, Scored(tuple(names))])),
    )  # fmt: skip
    loss = data.draw(st.sampled_from(["prototype", "cross_entropy"]))
    recipe = Recipe(
        iterations=data.draw(st.integers(1, 9)),
        augment=data.draw(st.booleans()),
        copies=data.draw(st.integers(1, 4)),
        image_interval=data.draw(st.integers(1, 2)),
        means_interval=data.draw(st.integers(1, 3)) if loss == "prototype" else 1,
        loss=loss,
        optimizer="sgd",
    )
    least = LeastUsage(asked, recipe, asked.forward_cost(recipe))
    inside = graph.behind(graph.input) | {graph.input}
    nothing_anew = all(call.name in inside for call in graph.calls)
    for cut in cuts(graph)[1:]:
        told = least.in_storage(cut)
        cost = asked.forward_cost(replace(recipe, cut=cut, cache_in="storage"))
        in_ram = asked.forward_cost(replace(recipe, cut=cut, cache_in="ram"))
        assert least.may_have_room(cut, "ram") or not asked.has_room(in_ram, "ram")
        if in_ram.latency_s is not None:
            assert least.seconds(cut, "ram") <= in_ram.latency_s.value
        assert told["latency_s"] >= least.computing_s(cut) * (1 - 1e-11)
        for name, taken in cost.usage.items():
            assert taken is None or told[name] <= taken
        if nothing_anew and device is not SMALL:
            for name in ("latency_s", "energy_j", "macs"):
                assert told[name] == pytest.approx(cost.usage[name], rel=1e-9)


@settings(max_examples=40)
@given(st.data())
def test_ways_at_once_allow_what_any_of_them_allows(data):
    """And no more, where one leaves most of every budget."""
    graph = data.draw(graphs(max_calls=5, simple=True))
    names = [name for name in graph.layers if graph.selectable_channels(name, "output")][-3:]
    assume(names)
    problem = Problem(
        graph,
        TrainingStep(graph.batch),
        scores_for(graph, data.draw, ("output",), names),
        Budget(),
        with_bias=data.draw(st.booleans()),
        timer=PI.target(None).at(TrainingStep().bits),
    )
    counts = [range(candidate.size + 1) for candidate in problem.candidates]
    assume(np.prod([len(each) for each in counts]) <= MOST_PLANS)
    selections = np.array(list(product(*counts)))
    taken = problem.table.price(problem.counts(selections))
    assert taken.step_s is not None
    limited = data.draw(st.sampled_from([("latency_s",), ("macs",), ("latency_s", "macs")]))
    ways = []
    for first in range(len(names)):
        at = data.draw(st.integers(0, len(selections) - 1))
        budget = Budget(
            latency_s=float(taken.step_s[at]) if "latency_s" in limited else None,
            macs=int(taken.backward_macs[at]) if "macs" in limited else None,
        )
        recipe = Recipe(cut=f"cut {first}", cache_in="storage")
        ways.append(Way(recipe, frozenset(names[first:]), budget, budget))
    at_once = by_first_opened(problem, ways)
    trained = [frozenset(problem.plan(row).by_layer) for row in selections]
    by_any = np.zeros(len(selections), dtype=bool)
    for way in ways:
        within = np.array([layers <= way.layers for layers in trained])
        by_any |= within & problem.within(way.budget).fits(selections)
    allowed = at_once.fits(selections)
    assert not (by_any & ~allowed).any()
    if len(limited) == 1:
        assert (by_any == allowed).all()
    free, charged = problem.table, at_once.table
    rows = problem.counts(selections)
    assert (charged.price(rows).peak_bytes == free.price(rows).peak_bytes).all()
