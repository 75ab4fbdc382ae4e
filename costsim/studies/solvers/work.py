"""The work of one process: problems posed and solvers asked."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass, replace
from typing import Any

from costsim.base.files import parse_json
from costsim.planning import Prepared, Scored, caveats, conclude, prepare
from costsim.pricing.accounting.sparse_update import input_channel_norms
from costsim.problem.importance import Importance
from costsim.problem.problem import Problem
from costsim.problem.solution import Solution, Solver
from costsim.run.criteria.caveats import loss_caveat
from costsim.solving.planfile import TaskRecord
from costsim.solving.solve import solve
from costsim.studies.engine import Computed, Workshop
from costsim.studies.solvers.cells import SolverCell

MakeSolver = Callable[..., Solver]
"""`costsim.solvers.make_solver`: a solver by name, `time_limit_s` where it takes one."""


class SolverWorkshop(Workshop[SolverCell]):
    """Keeps the problem of the last cell's model, task and device.

    The document that cells share are the channel scores, so that all solvers are asked the same.
    """

    def __init__(self, make_solver: MakeSolver, broken: str) -> None:
        super().__init__(broken)
        self._make_solver = make_solver
        self._prepared: tuple[tuple[str, str], Prepared] | None = None

    def answer(self, cell: SolverCell, shared: str | None) -> Computed:
        """The solver's answer to the problem, which is posed if it is another than the last."""
        if self._prepared is None or self._prepared[0] != cell.group:
            self._prepared = None  # its memory before that of the next
            request = cell.request(self._make_solver(cell.solver))
            scored = None if shared is None else _scored(parse_json(shared, "scores in the store"))
            self._prepared = cell.group, prepare(request, scored=scored)
        prepared = self._prepared[1]
        made = json.dumps(_document(prepared.scored), allow_nan=False) if shared is None else None
        return Computed(_solved(cell, prepared, self._make_solver), made)


def _scored(document: Mapping[str, Any]) -> Scored:
    importance = Importance.from_json(document["importance"])
    task = TaskRecord.model_validate(document["task"])
    return Scored(importance, tuple(document["layers"]), document["samples"], task)


def _document(scored: Scored) -> dict[str, Any]:
    return {
        "importance": scored.importance.to_json(),
        "layers": list(scored.layers),
        "samples": scored.samples,
        "task": scored.task.model_dump(mode="json"),
    }


def _solved(cell: SolverCell, prepared: Prepared, make_solver: MakeSolver) -> dict[str, Any]:
    device, shared = prepared.request.device, prepared.problem
    budget = cell.budget.on(device).resolve(device, shared.graph, shared.step)
    problem = shared.within(budget)
    solver = make_solver(cell.solver)
    limit = cell.settings.time_limit_s
    if limit is not None and hasattr(solver, "time_limit_s"):
        solver = make_solver(cell.solver, time_limit_s=limit)
    if hasattr(solver, "weight_norms") and is_dataclass(solver):
        norms = _norms(prepared)
        solver = replace(solver, weight_norms=norms)
    solution = solve(problem, solver, device=device)
    row = {**cell.head, **_answer(problem, solution)}
    notes = [*caveats(prepared)]
    if cell.settings.accuracy:
        row |= _trained(cell, replace(prepared, problem=problem), solution, notes)
    return row | {"note": "\n".join(notes) or None}


def _trained(
    cell: SolverCell, prepared: Prepared, solution: Solution, notes: list[str]
) -> dict[str, Any]:
    """Accuracies before and after training by the plan, on the task that it was made for.

    What to know of the training is added to `notes`.
    """
    from costsim.learning.training import TrainRequest
    from costsim.learning.training import prepare as prepare_training

    if solution.plan is None or not (solution.plan.subsets or solution.plan.biases):
        return {}
    task = cell.task
    run = prepare_training(
        TrainRequest(
            plan=conclude(prepared, solution).file,
            source=f"the plan of {solution.solver}",
            data=task.data,
            split=task.split,
            ways=task.ways,
            shots=task.shots,
        )
    )
    run.train(lambda: False, lambda _run, _loss: None)
    trained = run.finish()
    if (told := loss_caveat(trained.losses)) is not None:
        notes.append(told)
    return {
        "accuracy_before": trained.accuracy_before,
        "accuracy": trained.accuracy_after,
        "training_s": trained.seconds,
    }


def _norms(prepared: Prepared) -> Mapping[str, Sequence[float]]:
    """Norms of the weights, for solvers that ask for them."""
    arrays = {name: tensor.detach().numpy() for name, tensor in prepared.tensors.items()}
    return input_channel_norms(prepared.problem.graph, arrays)


def _answer(problem: Problem, solution: Solution) -> dict[str, Any]:
    from costsim.base.files import to_json_text

    budget = problem.budget
    row: dict[str, Any] = {
        "status": str(solution.status),
        "gain": solution.objective,
        "bound": solution.bound,
        "total_gain": problem.importance.full_gain,
        "seconds": solution.seconds,
        "memory_limit_bytes": budget.memory_bytes,
        "accounting": budget.accounting,
        "macs_limit": budget.macs,
        "reason": solution.reason,
    }
    plan, cost = solution.plan, solution.cost
    if plan is None or cost is None:
        return row
    usage = problem.plan_usage(plan)
    shares = [usage[name] / limit for name, limit in problem.limits() if limit]
    return row | {
        "layers": len(plan.subsets),
        "channels": sum(len(subset.channels) for subset in plan.subsets),
        "memory_bytes": cost.memory.in_accounting(budget.accounting),
        "backward_macs": cost.macs.backward,
        "latency_s": None if cost.on_device is None else cost.on_device.latency_s.value,
        "fullest": max(shares, default=None),
        "plan": to_json_text(plan.to_json(problem.graph.layers)),
    }
