"""What planning a deep network takes, counted and not timed: steps of the interpreter, and bytes.

A chain of four times as many layers takes four times as many steps to schedule and to compile. Its
table has sixteen times as many entries, a row for each clause and a column for each position; what
is there besides while it is derived, and for each case that is solved, is small beside it.
"""

import sys
import tracemalloc
from types import FrameType
from typing import Any

import numpy as np
import pytest
from costsim.solvers.cases import Cases
from costsim.solvers.resources import resources
from graphs import chain

from costsim.ir.plan import UpdatePlan
from costsim.ir.program import build_schedule, compile_program
from costsim.ir.step import TrainingStep
from costsim.pricing.derivation import build_table
from costsim.pricing.derivation.spans import LiveBytes
from costsim.problem.budget import Budget
from costsim.problem.importance import ChannelScores, Importance
from costsim.problem.problem import Problem

FEW, MANY = 20, 80


def deep(layers):
    """A chain, and one step of it."""
    return chain(channels=(4,) * layers), TrainingStep(1)


def steps_of(work):
    """How many steps the interpreter takes: a loop in a single expression counts too."""
    taken = 0

    def each(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal taken
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        taken += event == "opcode"
        return each

    before = sys.gettrace()
    sys.settrace(each)
    try:
        work()
    finally:
        sys.settrace(before)
    return taken


def planned(layers):
    graph, step = deep(layers)
    for plan in (UpdatePlan(), UpdatePlan.full(graph)):
        compile_program(graph, plan, step)


def derived(layers):
    graph, step = deep(layers)
    build_table(graph, step)


@pytest.mark.parametrize("work", [planned, derived])
def test_steps_grow_with_the_layers(work):
    work(FEW)
    assert steps_of(lambda: work(MANY)) < 1.08 * MANY / FEW * steps_of(lambda: work(FEW))


def test_a_table_takes_little_room_beside_its_own():
    graph, step = deep(MANY)
    schedule = build_schedule(graph, step)
    build_table(graph, step, schedule=schedule)
    tracemalloc.start()
    try:
        table = build_table(graph, step, schedule=schedule)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    memory = table.memory
    assert most < 2.5 * (memory.clauses.nbytes + memory.channels.nbytes)


def test_positions_that_a_neighbour_covers_get_no_row():
    live = LiveBytes(5)
    live.always.add(None, 3, 0, 4)
    live.channels.add(("output", "a"), 2, 0, 1)
    live.clauses.add(frozenset({("output", "a")}), 1, 1, 3)
    live.pairs.add((0, 1), 4, 3, 4)
    assert live.summits().tolist() == [1, 3]
    assert LiveBytes(3).summits().tolist() == [0]


def test_no_case_of_a_chain_has_rows_of_its_own():
    """There is one for each layer that may be opened first."""
    graph, step = deep(FEW)
    names = [name for name in graph.layers if graph.selectable(name, "output")]
    scores = tuple(ChannelScores(name, "output", (1.0,) * 4) for name in names)
    budget = Budget(memory_bytes=3000, macs=200_000)
    found = resources(Problem(graph, step, Importance("x", scores), budget))
    assert len(found.room) > 2
    cases = Cases(found)
    for case in cases.branch(cases.root(), np.ones(FEW, dtype=bool))[:-1]:
        costs = cases.costs(case)
        assert costs.undecided is None
        assert costs.fixed is found.opening
        assert costs.slopes is found.slopes
