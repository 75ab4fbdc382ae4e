"""An oracle for solvers: every plan of a small problem, compiled and priced, without a table."""

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from itertools import product
from math import prod
from random import Random
from typing import Any

import numpy as np
from costsim.solvers import SOLVERS, make_solver
from costsim.solvers.ilp import IntegerProgram
from graphs import graphs, steps
from hypothesis import assume
from hypothesis import strategies as st
from numpy.typing import NDArray
from problems import AXES, LIMITS, RooflineTimer, scores_for
from tabulating import program_seconds

from costsim.ir.plan import UpdatePlan
from costsim.ir.program import build_schedule, compile_program
from costsim.pricing.accounting import ACCOUNTINGS
from costsim.pricing.cost import price
from costsim.problem.budget import Budget
from costsim.problem.problem import Problem
from costsim.problem.solution import Solution, Status
from costsim.solving.solve import solve

COMPUTE_W = 2.0
MOST_PLANS = 80
PROVING = (*SOLVERS.tagged("proves"), "one program")
SEARCHING = ("greedy", "evolutionary")
ASKED = {
    "exact": 40, "brute-force": 20, "ilp": 12, "one program": 6, "greedy": 12, "evolutionary": 1,
    "last-layer": 2, "bias-only": 2, "full": 2, "sparse-update": 1, "none": 2,
}  # fmt: skip
"""Of a hundred budgets, how many go to which solver: proofs the most, what is slow the least."""
SUM = 1e-11
"""What the order of adding seconds may do to their sum, relatively."""


class Enumerated:
    """Every selection [plans, candidates] of a problem, its gain, and what its program takes."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.schedule = build_schedule(problem.graph, problem.step)
        sizes = [range(candidate.size + 1) for candidate in problem.candidates]
        allowed = [s for s in product(*sizes) if any(s) and self._allowed(s)]
        self.selections = np.array(allowed).reshape(len(allowed), len(sizes))
        self.gains = np.array([self._gain(selection) for selection in allowed])

    def _allowed(self, selection: Sequence[int]) -> bool:
        """A layer is updated along one axis, and one layer alone keeps channels of a tensor."""
        opened = {i for i, count in enumerate(selection) if count}
        return all(len(opened & set(group)) <= 1 for group in self.problem.exclusive)

    def _gain(self, selection: Sequence[int]) -> float:
        return sum(
            sum(sorted(entry.scores, reverse=True)[:count])
            for entry, count in zip(self.problem.importance.channels, selection, strict=True)
        )

    @cached_property
    def uses(self) -> dict[str, NDArray[np.float64]]:
        """By accounting and limit, what each selection takes."""
        rows = [self.of(self.problem.plan(selection)) for selection in self.selections]
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}

    def of(self, plan: UpdatePlan) -> dict[str, float]:
        """What one plan takes, by its program."""
        program = compile_program(self.problem.graph, plan, self.problem.step, self.schedule)
        cost = price(program)
        seconds = program_seconds(program, RooflineTimer())
        return {
            **{name: cost.memory.in_accounting(name) for name in ACCOUNTINGS},
            "working_bytes": cost.memory.peak_bytes,
            "macs": cost.macs.backward,
            "latency_s": seconds,
            "energy_j": seconds * COMPUTE_W,
        }


def drawn_problem(data: st.DataObject) -> Problem:
    """A problem without limits that has few plans."""
    graph = data.draw(graphs(max_calls=6, rich=data.draw(st.booleans())))
    axes = data.draw(st.sampled_from(AXES))
    names: list[str] = []
    plans = 1
    for name in reversed(list(graph.layers)):
        here = prod([graph.selectable(name, axis) + 1 for axis in axes])
        if here > 1 and plans * here <= MOST_PLANS:
            names, plans = [name, *names], plans * here
    assume(names)
    return Problem(
        graph,
        data.draw(steps(graph)),
        scores_for(graph, data.draw, axes, names),
        Budget(),
        with_bias="bias" not in axes and data.draw(st.booleans()),
        timer=RooflineTimer(),
        compute_w=COMPUTE_W,
    )


def drawn_budget(chance: Random, every: Enumerated) -> Budget:
    """Limits that are what a drawn plan takes, or one less, or a little more."""
    accounting = chance.choice(ACCOUNTINGS)
    at = chance.randrange(len(every.selections))
    found: dict[str, Any] = {}
    for name in chance.sample(LIMITS, chance.randint(1, 3)):
        taken = every.uses[accounting if name == "memory_bytes" else name][at]
        if name in ("latency_s", "energy_j"):
            slack = chance.choice([0.0, 0.0, -1e-6, -1.0, 1e-6, 5.0])
            found[name] = max(0.0, float(taken) + slack)
        else:
            found[name] = max(0, int(taken) + chance.choice([0, 0, 0, -1, 7]))
    return Budget(accounting=accounting, **found)


def check_budgets(data: st.DataObject, *, budgets_of_each: int) -> Counter[str]:
    """Ask solvers about drawn budgets of one problem; no plan is over one, and no proof is false.

    What comes back counts the cases by status. Budgets come from a generator that is drawn as a
    whole: to draw each number of theirs would take longer than to solve for it.
    """
    free = drawn_problem(data)
    every = Enumerated(free)
    chance = data.draw(st.randoms(use_true_random=True))
    told = Counter[str]()
    for _ in range(budgets_of_each):
        budget = drawn_budget(chance, every)
        (name,) = chance.choices(tuple(ASKED), tuple(ASKED.values()))
        if name == "one program":
            solver = IntegerProgram(by_case=False)
        else:
            solver = make_solver(name)
        status = check_answer(free.within(budget), every, name, solve(free.within(budget), solver))
        told.update(["cases", f"{name}: {status}"])
    return told


def check_answer(problem: Problem, every: Enumerated, name: str, solution: Solution) -> str:
    """One answer against every plan there is."""
    limits = dict(problem.limits())
    accounting = problem.budget.accounting
    keys = {n: accounting if n == "memory_bytes" else n for n in limits}
    surely, perhaps = (
        np.logical_and.reduce(
            [every.uses[keys[n]] <= limit * (1 + some) for n, limit in limits.items()]
        )
        for some in (0.0, SUM)
    )
    if solution.plan is not None:
        used = every.of(solution.plan)
        for n, limit in limits.items():
            assert used[keys[n]] <= limit * (1 + SUM), (name, n, used[keys[n]], limit)
    most = every.gains[perhaps].max(initial=-np.inf)
    least = every.gains[surely].max(initial=-np.inf)
    if name in (*PROVING, *SEARCHING) and solution.plan is not None:
        assert solution.objective <= most * (1 + 1e-9) + 1e-300
    if solution.bound is not None and least > -np.inf:
        assert solution.bound >= least * (1 - 1e-9)
    if name in PROVING:
        if solution.status is Status.OPTIMAL:
            assert solution.objective >= least * (1 - 1e-9)
        elif solution.status is Status.INFEASIBLE:
            assert not surely.any(), f"{name} finds no plan where {surely.sum()} fit"
        else:
            assert accounting == "arena", f"{name} proves nothing: {solution.status}"
    if solution.plan is None:
        assert solution.reason
    return f"{solution.status}"
