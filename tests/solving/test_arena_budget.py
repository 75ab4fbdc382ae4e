"""Budgets in the arena, against the arenas of all plans."""

from dataclasses import replace

import numpy as np
from costsim.solvers.baselines import Full
from costsim.solvers.exact import Exact
from costsim.solvers.greedy import Greedy
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from problems import chain_problem, problems

from costsim.problem.budget import Budget, at_least
from costsim.problem.solution import Status
from costsim.solving.arena_budget import arena_bytes
from costsim.solving.solve import solve


def in_arena(problem, limit):
    return problem.within(Budget(limit, "arena", problem.budget.macs))


@settings(max_examples=40)
@given(problems(max_layers=3, simple=True, max_calls=5), st.data())
def test_every_plan_fits_its_arena_and_no_better_one_was_denied(problem, data):
    sizes = [c.size + 1 for c in problem.candidates]
    assume(np.prod(sizes) <= 150)
    selections = np.indices(sizes).reshape(len(sizes), -1).T[1:]
    free = problem.within(Budget(10**9, "arena", problem.budget.macs))
    selections = selections[free.fits(selections)]
    assume(len(selections))
    arenas = np.array([arena_bytes(problem, problem.plan(row)) for row in selections])
    limit = int(data.draw(st.sampled_from(sorted(set(arenas.tolist()))))) - data.draw(
        st.sampled_from([0, 0, 1])
    )
    asked = in_arena(problem, limit)
    allowed = arenas <= limit
    solution = solve(asked, Exact())
    if solution.plan is None:
        assert solution.status is Status.TIME_LIMIT or not allowed.any()
        return
    assert solution.cost.memory.arena_bytes <= limit
    assert not asked.exceeded(solution.plan)
    best = problem.gains(selections[allowed]).max()
    assert solution.bound is None or solution.bound >= best * (1 - 1e-9)
    if solution.status is Status.OPTIMAL:
        assert solution.objective >= best * (1 - 1e-9)
    greedy = solve(asked, Greedy())
    assert greedy.plan is None or greedy.cost.memory.arena_bytes <= limit


def test_an_arena_larger_than_the_peak_is_respected():
    """Everywhere the peak alone would allow a plan whose offsets do not fit."""
    free = chain_problem(Budget(10**9, "arena"))
    for share in np.linspace(0.3, 0.95, 14):
        whole = solve(free, Exact()).cost.memory.peak_bytes
        limit = int(whole * share)
        by_peak = solve(free.within(Budget(limit, "peak")), Exact())
        by_arena = solve(free.within(Budget(limit, "arena")), Exact())
        if by_arena.plan is None:
            continue
        assert by_arena.cost.memory.arena_bytes <= limit
        assert by_arena.objective <= by_peak.objective
        if by_peak.cost.memory.arena_bytes <= limit:
            assert by_arena.status is Status.OPTIMAL
            assert by_arena.objective == by_peak.objective


def test_a_fixed_plan_whose_arena_does_not_fit_is_refused():
    free = chain_problem(Budget(10**9, "arena"))
    cost = solve(free, Full()).cost.memory
    within = solve(free.within(Budget(cost.arena_bytes, "arena")), Full())
    assert within.plan is not None
    short = solve(free.within(Budget(cost.arena_bytes - 1, "arena")), Full())
    assert short.status is Status.INFEASIBLE
    assert f"{at_least('memory_bytes', cost.arena_bytes)} would do" in short.reason


def test_the_budget_of_a_plan_is_its_arena():
    problem = chain_problem(Budget(10**9, "arena"))
    solution = solve(problem, Exact())
    used = problem.plan_usage(solution.plan)["memory_bytes"]
    assert used == solution.cost.memory.arena_bytes
    tight = replace(problem.budget, memory_bytes=int(used) - 1)
    assert problem.within(tight).exceeded(solution.plan)
