"""Ctrl-C, which a solver answers with its best plan, ends whatever asked it many questions."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from by_default import by_default
from costsim.solvers.exact import Exact
from graphs import chain
from problems import chain_problem

from costsim.ir.step import TrainingStep
from costsim.planning.inverse import smallest_budget
from costsim.problem.budget import Budget
from costsim.problem.importance import ChannelScores, Importance
from costsim.problem.problem import Problem
from costsim.problem.solution import Answer, Status
from costsim.solving.explain import explain
from costsim.solving.pareto import frontier
from costsim.solving.solve import solve


@dataclass(frozen=True)
class Interrupted:
    """The exact solver; from its answer number `at` on it says that Ctrl-C cut it short."""

    at: int
    asked: list[Problem] = field(default_factory=list)
    name: str = "interrupted"

    def __call__(self, problem: Problem) -> Answer:
        self.asked.append(problem)
        answer = Exact()(problem)
        if len(self.asked) < self.at:
            return answer
        return Answer(answer.plan, Status.TIME_LIMIT, answer.bound, "interrupted")


def problem() -> Problem:
    """Half of what everything takes, so that there is much to ask."""
    graph = chain(channels=(6, 6, 6, 6))
    scores = tuple(
        ChannelScores(name, "output", tuple(1.0 + i + c for c in range(6)))
        for i, name in enumerate(graph.layers)
    )
    whole = Problem(graph, TrainingStep(), Importance("drawn", scores), Budget(macs=10**12))
    everything = np.array([[candidate.size for candidate in whole.candidates]])
    return whole.within(Budget(macs=whole.usage(everything)["macs"][0].item() / 2))


QUESTIONS: dict[str, Callable[[Problem, Interrupted], object]] = {
    "frontier": lambda asked, solver: frontier(asked, solver, "memory"),
    "beside": lambda asked, solver: frontier(asked, Exact(), "memory", beside=[solver]),
    "inverse": lambda asked, solver: smallest_budget(asked, solver, "memory_bytes", 0.5),
    "explain": lambda asked, solver: explain(asked, solve(asked, Exact()), solver),
}


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("name", by_default(QUESTIONS, QUESTIONS.keys() - {"beside"}))
def test_one_interruption_ends_all_questions(name: str, at: int) -> None:
    solver = Interrupted(at)
    with pytest.raises(KeyboardInterrupt):
        QUESTIONS[name](problem(), solver)
    assert len(solver.asked) == at


@pytest.mark.parametrize("at", by_default([2, 3], [2]))
def test_a_budget_in_the_arena_asks_nothing_more_after_an_interruption(at: int) -> None:
    free = chain_problem(Budget(10**9, "arena"))
    most = solve(free, Exact()).cost
    assert most is not None
    told = []
    for share in np.linspace(0.3, 0.95, 40):
        solver = Interrupted(at)
        asked = free.within(Budget(int(most.memory.peak_bytes * share), "arena"))
        solution = solve(asked, solver)
        assert len(solver.asked) <= at
        if len(solver.asked) == at and solution.plan is not None:
            told.append(solution.reason)
    assert told or at == 2  # where the second answer is the interrupted one there may be no plan
    assert set(told) <= {"interrupted"}
