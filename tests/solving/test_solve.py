"""What `solve` says about an answer: restrictions of a proof, and budgets that would do."""

import math
import re
import sys

import pytest
from costsim.solvers import SOLVERS, make_solver
from costsim.solvers.baselines import Full
from graphs import GraphBuilder

from costsim.base.errors import InputError
from costsim.base.units import parse_bytes, parse_macs
from costsim.ir.operators import Add
from costsim.ir.step import TrainingStep
from costsim.problem.budget import Budget
from costsim.problem.importance import ChannelScores, Importance
from costsim.problem.problem import Problem
from costsim.problem.solution import Status
from costsim.solving.solve import solve


def two_readers_of_one_tensor():
    g = GraphBuilder()
    x = g.input(1, 4, 4, 4)
    first, second = (g.conv(x, 4, 3, groups=4) for _ in range(2))
    g.pool(g.add(Add(), (first, second)))
    return g.graph(), (first, second)


def problem_of(graph, layers, budget):
    scores = tuple(ChannelScores(layer, "output", (1.0,) * 4) for layer in layers)
    return Problem(graph, TrainingStep(), Importance("given", scores), budget)


@pytest.mark.parametrize("name", SOLVERS.tagged("proves"))
def test_a_proof_says_what_it_leaves_out(name):
    graph, layers = two_readers_of_one_tensor()
    solution = solve(problem_of(graph, layers, Budget(memory_bytes=10**9)), make_solver(name))
    assert solution.status is Status.OPTIMAL
    assert solution.objective == 4.0
    assert f"{layers[0]} or {layers[1]}" in solution.reason


def test_a_proof_over_all_plans_says_nothing_of_the_kind():
    graph, layers = two_readers_of_one_tensor()
    problem = problem_of(graph, layers[:1], Budget(memory_bytes=10**9))
    assert solve(problem, make_solver("exact")).reason == ""


def test_what_a_baseline_says_would_do_does():
    graph, layers = two_readers_of_one_tensor()
    refused = solve(problem_of(graph, layers, Budget(memory_bytes=1)), Full())
    assert refused.status is Status.INFEASIBLE
    enough = parse_bytes(re.search(r"([\d.]+(?:Ki)?B) would do", refused.reason)[1])
    assert solve(problem_of(graph, layers, Budget(memory_bytes=enough)), Full()).plan is not None
    short = problem_of(graph, layers, Budget(memory_bytes=math.floor(0.999 * enough) - 1))
    assert solve(short, Full()).plan is None


def test_a_missing_program_is_named_with_its_package(monkeypatch):
    import pulp

    class Missing:
        def available(self):
            return False

    monkeypatch.setattr(pulp, "getSolver", lambda *_names, **_options: Missing())
    graph, layers = two_readers_of_one_tensor()
    with pytest.raises(InputError, match="CBC is not installed"):
        solve(problem_of(graph, layers, Budget()), make_solver("ilp-cbc"))


def test_highs_that_cannot_be_loaded_says_why(monkeypatch):
    """It may be there and not load: other packages bring libraries of the same names."""
    monkeypatch.setitem(sys.modules, "highspy", None)
    graph, layers = two_readers_of_one_tensor()
    with pytest.raises(InputError, match=r"HiGHS cannot be loaded.*highspy.*halted"):
        solve(problem_of(graph, layers, Budget()), make_solver("ilp"))


def test_budgets_that_contradict_each_other_are_named_together():
    """Memory for nothing and no MACs: neither alone would do."""
    graph, layers = two_readers_of_one_tensor()
    told = solve(problem_of(graph, layers, Budget(memory_bytes=1, macs=0)), make_solver("exact"))
    assert told.status is Status.INFEASIBLE
    memory, macs = re.search(r"(\S+) and (\S+) would do together", told.reason).groups()
    enough = Budget(memory_bytes=parse_bytes(memory), macs=parse_macs(macs))
    assert solve(problem_of(graph, layers, enough), make_solver("exact")).plan is not None


@pytest.mark.parametrize("score", [float("nan"), -1.0, float("inf")])
def test_scores_that_mean_nothing_are_refused(score):
    with pytest.raises(InputError, match=r"score"):
        ChannelScores("conv", "output", (1.0, score))
