"""The cost table and the compiled program are two derivations of the same numbers."""

from dataclasses import fields, is_dataclass, replace
from itertools import product

import numpy as np
import pytest
from graphs import DRAWN, GraphBuilder, all_blocks, graphs, steps
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import RooflineTimer
from tabulating import check_table_against_program

from costsim.ir.operators import OPERATORS, Add, Axis, MatMul, ReLU, Reshape, Softmax
from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.ir.program import Atom, build_schedule, compile_program, memory_timeline
from costsim.ir.step import TrainingStep
from costsim.pricing.cost import price
from costsim.pricing.derivation import build_table


@settings(max_examples=5)
@given(all_blocks())
def test_graphs_are_drawn_of_every_operator(graph):
    assert {call.operator.kind for call in graph.calls} | {one.kind for one in DRAWN} >= set(
        OPERATORS
    )


@settings(max_examples=100)
@given(st.data())
def test_table_and_program_agree_exactly(data):
    check_table_against_program(data, plans_of_each=3)


@pytest.mark.slow
@settings(max_examples=4000)
@given(st.data())
def test_table_and_program_agree_thousands_of_times(data):
    check_table_against_program(data, plans_of_each=10)


@given(st.data(), st.integers(2, 60), st.integers(2, 60))
def test_a_table_of_other_passes_is_that_of_the_step_with_so_many(data, few, many):
    """To the bit, and nothing but the MACs is another."""
    graph = data.draw(graphs())
    step = data.draw(steps(graph))

    def passes(count):
        return replace(step, batch=graph.batch * count, micro_batch=graph.batch)

    found, wanted = (
        build_table(graph, passes(few)).repeated(few, many),
        build_table(graph, passes(many)),
    )
    for field in fields(wanted):
        one, other = getattr(found, field.name), getattr(wanted, field.name)
        assert _plain(one) == _plain(other), field.name


@given(st.data(), st.integers(2, 60), st.integers(2, 60))
def test_seconds_of_other_passes_are_those_of_the_step_with_so_many(data, few, many):
    """Updates are done once a step, all else in every pass."""
    graph = data.draw(graphs())
    step = data.draw(steps(graph))
    timer = RooflineTimer()

    def passes(count):
        return replace(step, batch=graph.batch * count, micro_batch=graph.batch)

    found = build_table(graph, passes(few), timer=timer).repeated(few, many)
    wanted = build_table(graph, passes(many), timer=timer)
    counts = np.array([[data.draw(st.integers(0, size)) for size in wanted.sizes]])
    assert found.price(counts).step_s == pytest.approx(wanted.price(counts).step_s, rel=1e-12)


def _plain(value):
    """Arrays and records of them as tuples, which compare."""
    if isinstance(value, np.ndarray):
        return value.shape, value.tolist()
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    if is_dataclass(value):
        return tuple(_plain(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return value


def test_channels_of_a_view_of_a_kept_value_are_kept_from_the_first_pass():
    """Nothing between two cuts is computed again for them, so that the whole need not wait."""
    g = GraphBuilder()
    first = g.conv(g.input(1, 2, 4, 4), 4, bias=False)
    view = g.add(Reshape((1, 4, 2, 8)), (first,))
    second = g.conv(view, 4, 3, groups=4, bias=False)
    g.pool(g.conv(second, 4, bias=False))
    graph, step = g.graph(), TrainingStep(recompute=(first, second))
    plan = UpdatePlan((ChannelSubset(second, "output", (1,)),))
    kept = sum(buffer.bytes for buffer in compile_program(graph, plan, step).kept())
    assert kept == 16 * 4  # one channel of the view in 32 bits
    assert build_table(graph, step).price_plan(plan).kept_bytes[0] == kept


def test_channels_that_two_layers_share_in_a_second_pass_are_not_kept_from_the_first():
    g = GraphBuilder()
    first = g.conv(g.input(1, 2, 4, 4), 4, bias=False)
    shared = g.conv(first, 4, bias=False)
    one, other = g.conv(shared, 4, bias=False), g.conv(shared, 4, bias=False)
    joined = g.add(Add(), (one, other))
    g.pool(g.conv(joined, 4, bias=False))
    graph, step = g.graph(), TrainingStep(recompute=(first, joined))
    plan = UpdatePlan((ChannelSubset(one, "input", (0,)), ChannelSubset(other, "input", (0, 1))))
    program, table = compile_program(graph, plan, step), build_table(graph, step)
    kept = sum(buffer.bytes for buffer in program.kept())
    assert kept == 4 * 4 * 4 * 4  # `first`, from which `shared` is computed again
    assert table.price_plan(plan).kept_bytes[0] == kept
    assert table.price_plan(plan).peak_bytes[0] == memory_timeline(program).peak_bytes


def test_channels_that_two_layers_take_in_different_orders_are_counted_once():
    """By counts, as solvers ask: the union of the first so many of each."""
    g = GraphBuilder()
    shared = g.conv(g.input(1, 2, 4, 4), 4, bias=False)
    one, other = g.conv(shared, 3, bias=False), g.conv(shared, 3, bias=False)
    g.pool(g.add(Add(), (one, other)))
    graph = g.graph()
    orders: dict[tuple[Axis, str], tuple[int, ...]] = {
        ("input", one): (2, 0, 1, 3),
        ("input", other): (3, 2, 1, 0),
    }
    by_atom: dict[Atom, tuple[int, ...]] = {(axis, name): o for (axis, name), o in orders.items()}
    table = build_table(graph, TrainingStep(), orders=by_atom)
    for taken in product(range(5), repeat=2):
        subsets = tuple(
            ChannelSubset(layer, axis, tuple(sorted(order[:count])))
            for ((axis, layer), order), count in zip(orders.items(), taken, strict=True)
            if count
        )
        counts = np.zeros((1, len(table.atoms)), dtype=int)
        for atom, count in zip(orders, taken, strict=True):
            counts[0, table.atoms.index(atom)] = count
        memory = price(compile_program(graph, UpdatePlan(subsets), TrainingStep())).memory
        found = table.price(counts)
        assert (found.kept_bytes[0], found.peak_bytes[0]) == (memory.kept_bytes, memory.peak_bytes)


def attention_of_softmax():
    """A softmax on a view, between two places where the forward pass can be cut."""
    g = GraphBuilder()
    first = g.linear(g.input(1, 2, 4), 4)
    soft = g.add(Softmax(1), (g.add(Reshape((1, 2, 2, 2)), (first,)),))
    tokens = g.add(Reshape((1, 2, 4)), (soft,))
    query, key = g.linear(tokens, 4), g.linear(tokens, 4, bias=False)
    mixed = g.add(MatMul(), (g.add(MatMul(transpose_b=True), (query, key)), tokens))
    g.pool(g.add(Reshape((1, 2, 2, 2)), (mixed,)))
    return g.graph(), (first, soft), query


def test_a_second_pass_leaves_the_first_one_working_in_place():
    """Through a view it once took over what the first pass had handed on already."""
    graph, cuts, query = attention_of_softmax()
    step = TrainingStep(recompute=cuts)
    first, soft = cuts
    assert build_schedule(graph, step).storages[first].successor == soft
    plan = UpdatePlan((ChannelSubset(query, "output", (0,)),))
    peak = memory_timeline(compile_program(graph, plan, step)).peak_bytes
    assert build_table(graph, step).price_plan(plan).peak_bytes[0] == peak


def test_what_works_in_place_does_so_with_cuts_around_it():
    """A step that is cut, and whose plan needs nothing computed again, is the step without cuts."""
    g = GraphBuilder()
    first = g.conv(g.input(1, 2, 4, 4), 4)
    relu = g.add(ReLU(), (g.add(Reshape((1, 4, 16)), (first,)),))
    last = g.conv(g.add(Reshape((1, 4, 4, 4)), (relu,)), 4)
    g.pool(last)
    graph, plan = g.graph(), UpdatePlan((ChannelSubset(last, "output", (0,)),))
    uncut, cut = (
        memory_timeline(compile_program(graph, plan, TrainingStep(recompute=cuts)))
        for cuts in ((), (first, relu))
    )
    assert cut.total_bytes.tolist() == uncut.total_bytes.tolist()


def test_a_value_cut_along_two_dimensions_is_kept_whole():
    g = GraphBuilder()
    x = g.input(1, 4, 4, 4)
    columns = g.linear(x, 4, bias=False)  # channels along the last dimension
    planes = g.conv(x, 4, bias=False)  # channels along the second
    g.pool(g.add(Add(), (columns, planes)))
    graph = g.graph()
    plan = UpdatePlan(
        (ChannelSubset(columns, "input", (0,)), ChannelSubset(planes, "input", (1, 2)))
    )
    program = compile_program(graph, plan, TrainingStep())
    assert [buffer.bytes for buffer in program.kept()] == [4 * 4 * 4 * 4]
    table = build_table(graph, TrainingStep())
    assert table.price_plan(plan).peak_bytes[0] == memory_timeline(program).peak_bytes
