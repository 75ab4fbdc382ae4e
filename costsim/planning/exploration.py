"""One request after another, each a little different: what does not change is computed once.

A model, its scores and a cost table take seconds, a proof within other budgets milliseconds. So a
person may drag a budget and see the proven plan follow. Several threads may ask; what nobody waits
for gives way between two proofs to what somebody does.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from operator import attrgetter
from threading import Lock
from typing import Any, TypeVar

import numpy as np

from costsim.base.errors import CostsimError
from costsim.base.progress import Progress, silent
from costsim.device import DeviceSpec
from costsim.ir.program import compile_program
from costsim.planning.device_plan import plan_prepared
from costsim.planning.finished_plan import Planned, file_of
from costsim.planning.posed_problem import Prepared, Scored, check, prepare
from costsim.planning.request import BudgetRequest, PlanRequest
from costsim.pricing.cost import Cost, price
from costsim.problem.problem import Problem
from costsim.problem.solution import Answer, Solution, Solver, Status
from costsim.problem.task_budget import TaskBudget
from costsim.solving.explain import LimitPrice
from costsim.solving.explain.questions import little
from costsim.solving.pareto import TIE, Frontier, frontier
from costsim.solving.planfile import PlanFile
from costsim.solving.solve import solve

Kept = TypeVar("Kept")

MORE_MEMORY_BYTES = 64 * 1024
"""So much more memory a person is told the worth of."""

SCORED_BY = attrgetter(
    "folds_batch_norm",
    "samples_a_pass",
    *("model", "output", "weights", "resolution", "data", "split", "ways", "shots"),
    *("criterion", "loss", "axes", "inspect", "layers", "exclude", "seed"),
)
"""All of a request that its scores depend on."""


class Superseded(CostsimError):
    """What was asked is no longer of interest: something else was asked since."""


@dataclass(frozen=True)
class Sketch:
    """A proven plan without the price of the whole adaptation, which takes longer than the proof.

    `importance` and `graph` are what the plan is for.
    """

    prepared: Prepared
    file: PlanFile
    solution: Solution


@dataclass(frozen=True)
class Elsewhere:
    """A step of the same plan, done in the same way, on another device."""

    device: DeviceSpec
    cost: Cost


@dataclass(frozen=True)
class Reach:
    """Of one limit: the least that lets a channel be trained, and what training everything takes.

    Budgets outside make no difference.
    """

    least: float
    most: float


def _unwatched() -> AbstractContextManager[Progress]:
    return nullcontext(silent)


class Exploration:
    """Answers to requests; models, scores, cost tables and frontiers are kept from one to the next.

    `watched` gives what hears of scoring, which takes long.
    """

    def __init__(
        self, watched: Callable[[], AbstractContextManager[Progress]] = _unwatched
    ) -> None:
        self.watched = watched
        self._scored: list[tuple[object, Scored]] = []
        self._prepared: list[tuple[PlanRequest, Prepared]] = []
        self._frontiers: list[tuple[object, Frontier]] = []
        self._reaches: list[tuple[object, Mapping[str, Reach]]] = []
        self._preparing = Lock()
        self._asked = 0

    def prepared(self, request: PlanRequest) -> Prepared:
        """What a solver is asked by `request`.

        Raises `InputError` for anything in it that cannot be used.
        """
        check(request)
        kind = _kind(request)
        with self._preparing:
            first = _known(self._prepared, kind)
            if first is None:
                by = SCORED_BY(request)
                with self.watched() as progress:
                    first = prepare(request, progress, _known(self._scored, by))
                self._scored.append((by, first.scored))
                self._prepared.append((kind, first))
        problem = first.problem
        budget = request.budget.resolve(request.device, problem.graph, problem.step)
        return replace(first, request=request, problem=problem.within(budget))

    def sketch(self, request: PlanRequest) -> Sketch:
        """The plan of `request`, at once; whatever else is being computed gives way to it.

        Where budgets of the whole adaptation are set, their price is part of the question.
        """
        self._asked += 1
        return self.sketch_again(request)

    def sketch_again(self, request: PlanRequest) -> Sketch:
        """The same, for whoever can wait."""
        prepared = self.prepared(request)
        if request.task_budget:
            planned = self.planned(prepared)
            return Sketch(prepared, planned.file, planned.solution)
        solution = solve(
            prepared.problem, request.solver, device=request.device, target=request.target
        )
        return Sketch(prepared, file_of(prepared, solution), solution)

    def planned(self, prepared: Prepared) -> Planned:
        """The whole plan, as `make_plan` makes it."""
        return plan_prepared(prepared)

    def reaches(self, prepared: Prepared) -> Mapping[str, Reach]:
        """How far each limit of a step reaches, the others left aside."""
        request, problem = prepared.request, prepared.problem
        key = _kind(request), problem.budget.accounting
        found = _known(self._reaches, key)
        if found is None:
            found = _reaches(problem)
            self._reaches.append((key, found))
        return found

    def known_frontier(self, prepared: Prepared) -> Frontier | None:
        """That of `frontier`, where it was asked for before."""
        return _known(self._frontiers, _frontier_key(prepared))

    def frontier(self, prepared: Prepared, prover: Solver, points: int = 20) -> Frontier:
        """Gain against memory within the other budgets of a step, to where the gain ends.

        `prover` proves its answers. Raises `Superseded` where a sketch is asked for meanwhile, and
        `InputError` where every score is 0.
        """
        found = self.known_frontier(prepared)
        if found is None:
            problem = prepared.problem
            asked = problem.within(replace(problem.budget, memory_bytes=None))
            found = frontier(asked, self._yielding(prover), "memory", points=points)
            self._frontiers.append((_frontier_key(prepared), found))
        return found

    def more(self, sketch: Sketch, prover: Solver) -> tuple[LimitPrice, ...]:
        """What a little more of each budget would bring, the others held: of memory, 64 KiB.

        Nothing where no plan was found. Raises `Superseded` where a sketch is asked for meanwhile.
        """
        problem, solver = sketch.prepared.problem, self._yielding(prover)
        if sketch.solution.objective is None:
            return ()
        best = solve(problem, solver)
        return tuple(
            _worth(problem, solver, best, name, allowed)
            for name, allowed in problem.limits()
            if name != "working_bytes"
        )

    def _yielding(self, solver: Solver) -> "_Yielding":
        started = self._asked
        return _Yielding(solver, lambda: self._asked != started)


@dataclass(frozen=True)
class _Yielding:
    """A solver of questions that nobody waits for: it stops where they are stale."""

    solver: Solver
    is_stale: Callable[[], bool]

    @property
    def name(self) -> str:
        """That of the solver."""
        return self.solver.name

    def __call__(self, problem: Problem) -> Answer:
        """The solver's answer; raises `Superseded` instead of giving one that nobody waits for."""
        if self.is_stale():
            raise Superseded("something else was asked since")
        return self.solver(problem)


@dataclass(frozen=True)
class _Nobody:
    """In place of a solver where requests are compared without theirs."""

    name: str = "nobody"

    def __call__(self, problem: Problem) -> Answer:
        """Nothing."""
        raise AssertionError(problem)


_NOBODY = _Nobody()


def _kind(request: PlanRequest) -> PlanRequest:
    """All of a request that a problem's scores and cost table depend on."""
    return replace(request, budget=BudgetRequest(), task_budget=TaskBudget(), solver=_NOBODY)


def _frontier_key(prepared: Prepared) -> object:
    """All that a frontier against memory depends on: where a step may swap, its room too."""
    request = prepared.request
    budget = replace(request.budget, memory_bytes=None)
    asked = replace(request, budget=budget, task_budget=TaskBudget(), solver=_NOBODY)
    return asked, prepared.problem.budget.working_bytes


def _known(entries: Sequence[tuple[object, Kept]], key: object) -> Kept | None:
    """What stands beside an equal key; None where nothing does."""
    return next((value for known, value in entries if known == key), None)


def _worth(
    problem: Problem, solver: Solver, best: Solution, limit: str, allowed: float
) -> LimitPrice:
    more = MORE_MEMORY_BYTES if limit == "memory_bytes" else little(limit, allowed)
    changed: dict[str, Any] = {limit: allowed + more}
    found = solve(problem.within(replace(problem.budget, **changed)), solver)
    before, after = best.objective or 0.0, found.objective or 0.0
    rise = problem.importance.share(max(0.0, after - before)) or 0.0
    proven = best.status is found.status is Status.OPTIMAL
    return LimitPrice(
        limit, allowed, False, more, rise if after > before * (1 + TIE) else 0.0, proven
    )


def elsewhere(sketch: Sketch, devices: tuple[DeviceSpec, ...]) -> Iterator[Elsewhere]:
    """The step of a plan on each of `devices` but its own."""
    problem, plan = sketch.prepared.problem, sketch.solution.plan
    if plan is None:
        return
    program = compile_program(problem.graph, plan, problem.step, problem.schedule)
    for device in devices:
        if device.name != sketch.prepared.request.device.name:
            yield Elsewhere(device, price(program, device))


def _reaches(problem: Problem) -> dict[str, Reach]:
    """How far each limit of a step reaches, the others left aside."""
    nothing = replace(problem.budget, memory_bytes=0, macs=0, latency_s=0.0, energy_j=0.0)
    asked = problem.within(replace(nothing, working_bytes=None))
    count = len(problem.candidates)
    one = asked.usage(np.eye(count, dtype=np.int64))
    everything = asked.usage(np.array([[c.size for c in problem.candidates]]))
    return {name: Reach(one[name].min().item(), everything[name][0].item()) for name in one}
