"""Everything that `costsim plan` does for one device."""

from costsim.base.progress import Progress, silent
from costsim.planning.conclusion import Planned, conclude
from costsim.planning.preparation import prepare
from costsim.planning.request import PlanRequest
from costsim.solving.solve import solve


def make_plan(request: PlanRequest, progress: Progress | None = None) -> Planned:
    """Choose what to update of a model within the budgets, and price it.

    `progress` is called with what is being done, how much of it is done and how much there is.
    Raises `InputError` for anything in the request that cannot be used.
    """
    report = progress or silent
    prepared = prepare(request, progress)
    report(f"solving: {request.solver.name}", 0, 0)
    solution = solve(prepared.problem, request.solver, device=request.device, target=request.target)
    return conclude(prepared, solution, progress)
