"""Solvers against brute force and against each other, on problems with tight budgets."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from problems import problems

from costsim.problem import Budget, Problem
from costsim.solution import Status
from costsim.solve import solve
from costsim.solvers import SOLVERS, BruteForce, Greedy, IntegerProgram, make_solver

EXACT = BruteForce(most=200_000)


def small(problem):
    return np.prod([c.size + 1.0 for c in problem.candidates]) <= EXACT.most


@settings(max_examples=150)
@given(problems())
def test_ilp_equals_brute_force(problem):
    assume(small(problem))
    oracle, exact = solve(problem, EXACT), solve(problem, IntegerProgram())
    assert exact.status == oracle.status
    if oracle.plan is not None:
        assert exact.objective == pytest.approx(oracle.objective, rel=1e-9)
        assert exact.gap == pytest.approx(0.0, abs=1e-9)
