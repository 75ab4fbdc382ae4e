"""The work of one process: problems posed, solvers asked, rows written."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from costsim.base.errors import CostsimError
from costsim.device import DeviceSpec
from costsim.planning import Prepared, Scored, caveats, conclude, prepare
from costsim.pricing.accounting.sparse_update import input_channel_norms
from costsim.problem.importance import Importance
from costsim.problem.problem import Problem
from costsim.problem.solution import Solution, Solver
from costsim.run.criteria.caveats import loss_caveat
from costsim.solving.solve import solve
from costsim.studies.engine import Claim, Owner
from costsim.studies.solvers.cells import Cell
from costsim.studies.solvers.store import Store

MakeSolver = Callable[..., Solver]
"""`costsim.solvers.make_solver`: a solver by name, `time_limit_s` where it takes one."""

POLL_S = 0.2
"""How often a process looks whether another has computed the scores that it needs."""


def group_of(cell: Cell) -> tuple[str, str]:
    """What cells have in common that share a priced and scored problem."""
    return cell.importance_key, cell.device_digest


class Workshop:
    """What cells share: the problem of the last one's model, task and device."""

    def __init__(self, store: Store, make_solver: MakeSolver) -> None:
        self._store, self._make_solver = store, make_solver
        self._prepared: tuple[tuple[str, str], Prepared] | None = None

    def row(self, cell: Cell) -> dict[str, Any]:
        """The row of a cell; whatever breaks it is a row too."""
        try:
            if self._prepared is None or self._prepared[0] != group_of(cell):
                self._prepared = None  # its memory before that of the next
                made = _prepared(cell, self._store, self._make_solver)
                self._prepared = group_of(cell), made
            return _solved(cell, self._prepared[1], self._make_solver)
        except Exception as error:
            return failed(cell, error)


@dataclass(frozen=True)
class Compute:
    """Computes a cell and keeps its row; travels to the process that does."""

    store: Path
    make_solver: MakeSolver

    def __call__(self, cell: Cell) -> None:
        """Raises `InputError` where the row cannot be kept, and for nothing else."""
        store, workshop = _opened(self.store, self.make_solver)
        store.write(workshop.row(cell))


@cache
def _opened(path: Path, make_solver: MakeSolver) -> tuple[Store, Workshop]:
    store = Store(path)
    return store, Workshop(store, make_solver)


def failed(cell: Cell, error: BaseException) -> dict[str, Any]:
    """The row of a cell that broke."""
    told = " ".join(str(error).split())
    reason = told if isinstance(error, CostsimError) else f"{type(error).__name__}: {told}"
    return {**_head(cell), "status": "error", "reason": reason}


def _head(cell: Cell) -> dict[str, Any]:
    settings = {k: v for k, v in asdict(cell.settings).items() if v not in (None, ())}
    told = " ".join(
        f"{name}={','.join(value) if isinstance(value, tuple) else value}"
        for name, value in settings.items()
    )
    if cell.settings.inspect is None:
        told += " inspect=all"
    return {
        "key": cell.key,
        "problem": cell.problem_key,
        "solver": cell.solver,
        "model": cell.model.label,
        "device": cell.device,
        "budget": cell.budget.label,
        "domain": cell.task.domain,
        "seed": cell.task.seed,
        "settings": told,
    }


def _prepared(cell: Cell, store: Store, make_solver: MakeSolver) -> Prepared:
    """The cell's problem; its scores are kept, and computed by one process only."""
    here = Owner.of(os.getpid())
    name = f"scores {cell.importance_key}"
    while (kept := store.scores(cell.importance_key)) is None:
        if store.claim(name, here) is Claim.HELD:
            time.sleep(POLL_S)
            continue
        try:
            if store.scores(cell.importance_key) is None:
                prepared = prepare(cell.request(make_solver(cell.solver)))
                store.keep_scores(cell.importance_key, _document(prepared.scored))
                return prepared
        finally:
            store.release([here], name)
    importance = Importance.from_json(kept["importance"])
    scored = Scored(importance, tuple(kept["layers"]), kept["samples"])
    return prepare(cell.request(make_solver(cell.solver)), scored=scored)


def _document(scored: Scored) -> dict[str, Any]:
    return {
        "importance": scored.importance.to_json(),
        "layers": list(scored.layers),
        "samples": scored.samples,
    }


def _solved(cell: Cell, prepared: Prepared, make_solver: MakeSolver) -> dict[str, Any]:
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
    row = {**_head(cell), **_answer(problem, solution, device)}
    notes = [*caveats(prepared.request, problem.graph, problem.importance)]
    if cell.settings.accuracy:
        row |= _trained(cell, replace(prepared, problem=problem), solution, notes)
    return row | {"note": "\n".join(notes) or None}


def _trained(
    cell: Cell, prepared: Prepared, solution: Solution, notes: list[str]
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
    run.train(lambda: False, lambda run, loss: None)
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


def _answer(problem: Problem, solution: Solution, device: DeviceSpec) -> dict[str, Any]:
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
