"""Planted bugs: each must be caught by a law that knows nothing of how it was planted.

The law: within a budget equal to what a drawn plan costs, priced from its compiled program, the
optimum is no worse than that plan, and no solver's answer costs more. An underpriced plan breaks
the second half, an overpriced one the first.
"""

from dataclasses import replace

import numpy as np
import pytest
from costsim.solvers import combined, enumeration, lagrangian
from costsim.solvers.brute_force import BruteForce
from costsim.solvers.exact import Exact
from graphs import graphs, steps
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from problems import AXES, scores_for

import costsim.problem.problem
from costsim.base.errors import InvalidSolution
from costsim.ir.program import compile_program
from costsim.pricing.accounting import ACCOUNTINGS
from costsim.pricing.cost import price
from costsim.pricing.derivation import build_table
from costsim.pricing.table import Linear
from costsim.problem.budget import Budget
from costsim.problem.problem import Problem
from costsim.problem.solution import Status
from costsim.solving.solve import solve


@st.composite
def priced_plans(draw):
    """A problem whose budget is the price of a plan of it, and the gain of that plan."""
    graph = draw(graphs(max_calls=7))
    step = draw(steps(graph))
    axes = draw(st.sampled_from(AXES))
    names = [n for n in graph.layers if any(graph.selectable(n, axis) for axis in axes)][-4:]
    assume(names)
    importance = scores_for(graph, draw, axes, names)
    with_bias = "bias" not in axes and draw(st.booleans())
    free = Problem(graph, step, importance, Budget(), with_bias=with_bias)
    selection = [draw(st.integers(0, c.size)) for c in free.candidates]
    for group in free.exclusive:
        for index in group[1:]:
            selection[index] = 0
    assume(any(selection))
    plan = free.plan(selection)
    cost = price(compile_program(graph, plan, step))
    accounting = draw(st.sampled_from(["peak", *(name for name in ACCOUNTINGS if name != "arena")]))
    budget = Budget(
        memory_bytes=cost.memory.in_accounting(accounting),
        accounting=accounting,
        macs=draw(st.sampled_from([None, cost.macs.backward])),
    )
    return free.within(budget), free.gain(plan)


def law(examples, solver):
    """The law as a function to call, for so many drawn problems."""

    @settings(
        max_examples=examples,
        database=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(priced_plans())
    def holds(drawn):
        problem, gain = drawn
        assume(np.prod([c.size + 1.0 for c in problem.candidates]) <= 20_000)
        solution = solve(problem, solver)
        assert solution.status is Status.OPTIMAL
        assert solution.objective >= gain * (1 - 1e-9)

    return holds


@pytest.mark.parametrize("solver", [Exact(), BruteForce()], ids=lambda s: s.name)
def test_the_price_of_a_plan_buys_its_gain(solver):
    law(40, solver)()


def shorter_reach(table):
    """Forget, in every clause of several layers, the first of them: the pass ends too late."""
    membership = table.membership.copy()
    for row in membership:
        members = np.flatnonzero(row)
        layers = {table.atoms[m][1] for m in members}
        if len(layers) > 1:
            first = table.atoms[members[0]][1]
            row[[m for m in members if table.atoms[m][1] == first]] = False
    return replace(table, membership=membership)


def longer_reach(table):
    """Put the first layer into every clause: the pass always goes to the beginning."""
    membership = table.membership.copy()
    first = [i for i, atom in enumerate(table.atoms) if atom[1] == table.atoms[0][1]]
    membership[np.ix_(membership.any(axis=1), first)] = True
    return replace(table, membership=membership)


def kept_alone(table):
    """Drop the transients: look at memory at one quiet position alone."""
    memory = table.memory
    at = [int(np.argmin(memory.constant))]
    return replace(
        table,
        memory=Linear(memory.constant[at], memory.clauses[:, at], memory.channels[:, at]),
        conjunctions=tuple(replace(c, bytes_at=c.bytes_at[at]) for c in table.conjunctions),
        shared_keeps=tuple(
            replace(k, segments=tuple((c, span[at]) for c, span in k.segments))
            for k in table.shared_keeps
        ),
    )


def summed_positions(table):
    """A sum where a maximum belongs."""
    memory = table.memory

    def total(values):
        return values.sum(axis=-1, keepdims=True)

    return replace(
        table,
        memory=Linear(total(memory.constant), total(memory.clauses), total(memory.channels)),
        conjunctions=tuple(replace(c, bytes_at=total(c.bytes_at)) for c in table.conjunctions),
        shared_keeps=tuple(
            replace(k, segments=tuple((c, total(span)) for c, span in k.segments))
            for k in table.shared_keeps
        ),
    )


def no_pairs(table):
    """Forget what two clauses cost together."""
    return replace(table, conjunctions=())


def channels_twice(table):
    """Count what each channel takes twice."""
    return replace(table, memory=replace(table.memory, channels=table.memory.channels * 2))


def biases_reach_nothing(table):
    """Forget that the backward pass has to come as far as a bias."""
    membership = table.membership.copy()
    membership[:, [kind == "bias" for kind, _ in table.atoms]] = False
    return replace(table, membership=membership)


@pytest.mark.parametrize(
    "mutant",
    [
        shorter_reach,
        pytest.param(longer_reach, marks=pytest.mark.slow),
        kept_alone,
        summed_positions,
        no_pairs,
        channels_twice,
        pytest.param(biases_reach_nothing, marks=pytest.mark.slow),
    ],
    ids=lambda m: m.__name__,
)
def test_a_wrong_table_is_caught(mutant, monkeypatch):
    monkeypatch.setattr(
        costsim.problem.problem, "build_table", lambda *a, **k: mutant(build_table(*a, **k))
    )
    with pytest.raises((AssertionError, InvalidSolution)):
        law(2000, Exact())()


def cheapest_only(costs, _gain):
    """Call every state dominated that costs more than another, whatever it has gained."""
    return np.argsort(costs.sum(axis=1), kind="stable")[:1]


@pytest.fixture
def enumerating(monkeypatch):
    """Small problems take the path of large ones: one class combined, every state compared."""
    monkeypatch.setattr(combined, "MOST", 0)
    monkeypatch.setattr(enumeration, "FEW", 0)


@pytest.mark.usefixtures("enumerating")
def test_enumeration_of_small_problems_is_exact():
    law(300, Exact())()


@pytest.mark.slow
@pytest.mark.usefixtures("enumerating")
def test_wrong_dominance_of_states_is_caught(monkeypatch):
    monkeypatch.setattr(enumeration, "undominated", cheapest_only)
    with pytest.raises(AssertionError):
        law(2000, Exact())()


def test_wrong_dominance_of_combined_options_is_caught(monkeypatch):
    monkeypatch.setattr(combined, "undominated", cheapest_only)
    with pytest.raises(AssertionError):
        law(2000, Exact())()


def test_a_bound_that_is_too_low_is_caught(monkeypatch):
    right = lagrangian.Relaxation.at

    def lower(self, multipliers):
        bound = right(self, multipliers)
        return replace(bound, value=bound.value * 0.9)

    monkeypatch.setattr(lagrangian.Relaxation, "at", lower)
    with pytest.raises((AssertionError, InvalidSolution)):
        law(2000, Exact())()
