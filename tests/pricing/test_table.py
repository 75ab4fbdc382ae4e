"""The cost table and the compiled program are two derivations of the same numbers."""

from dataclasses import fields, is_dataclass, replace

import numpy as np
from graphs import GraphBuilder, graphs, plans, steps
from hypothesis import given, settings
from hypothesis import strategies as st

from costsim.ir.operators import Add, Reshape
from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.ir.program import Category, Direction, compile_program, memory_timeline
from costsim.ir.step import TrainingStep
from costsim.pricing.derivation import build_table


class CountingTimer:
    """A device on which every operation takes a whole, distinctive number of seconds."""

    def operation_seconds(self, work_kind, direction, macs, moved_bytes, kernel=None):
        return 7.0 + np.maximum(3.0 * np.asarray(macs) * len(direction), np.asarray(moved_bytes))


def program_seconds(program, timer):
    return sum(
        program.times(op)
        * float(timer.operation_seconds(op.work_kind, str(op.direction), op.macs, op.moved_bytes))
        for op in program.operations
    )


@settings(max_examples=400)
@given(st.data())
def test_table_and_program_agree_exactly(data):
    graph = data.draw(graphs())
    step = data.draw(steps(graph))
    timer = CountingTimer()
    table = build_table(graph, step, timer=timer)
    for _ in range(3):
        plan = data.draw(plans(graph))
        program = compile_program(graph, plan, step)
        priced = table.price_plan(plan)

        assert priced.peak_bytes[0] == memory_timeline(program).peak_bytes
        assert priced.kept_bytes[0] == sum(buffer.bytes for buffer in program.kept())
        for category, column in (
            (Category.WEIGHT_GRADIENT, priced.gradient_bytes),
            (Category.OPTIMIZER, priced.optimizer_bytes),
            (Category.UPDATED_WEIGHTS, priced.updated_weight_bytes),
        ):
            assert column[0] == sum(b.bytes for b in program.buffers if b.category is category)
        for direction, macs in (
            (Direction.FORWARD, table.forward_macs),
            (Direction.RECOMPUTE, priced.recompute_macs[0]),
            (Direction.INPUT_GRADIENT, priced.input_gradient_macs[0]),
            (Direction.WEIGHT_GRADIENT, priced.weight_gradient_macs[0]),
        ):
            assert macs == sum(
                program.times(op) * op.macs
                for op in program.operations
                if op.direction is direction
            )
        assert priced.step_s is not None
        assert priced.step_s[0] == program_seconds(program, timer)


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
