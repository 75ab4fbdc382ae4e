"""Everything that `costsim plan` does for one device."""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from costsim.base.errors import InputError, shown
from costsim.base.progress import Progress
from costsim.base.units import counted
from costsim.device import load_device
from costsim.planning.alternatives import Alternative
from costsim.planning.finished_plan import Planned, conclude
from costsim.planning.joint import JointAnswer, choose_jointly
from costsim.planning.joint_question import by_passes, choices, joint_question
from costsim.planning.passes import PassesAnswer, choose_passes
from costsim.planning.posed_problem import Prepared, prepare
from costsim.planning.request import PlanRequest
from costsim.problem.solution import Status


def make_plan(
    request: PlanRequest | None = None, progress: Progress | None = None, **asked: Any
) -> Planned:
    """Choose what to update of a model within the budgets, and price it.

    What is asked is a `PlanRequest`, or its fields by name, of which the device may be a name or a
    path: `make_plan(model=net, device="jetson-nano", data=Path("faces.zip"))`. `progress` is called
    with what is being done, how much of it is done and how much there is. Raises `InputError` for
    anything in the request that cannot be used.
    """
    request = asked_for(request, asked)
    if request.explain_with is not None:
        request.check_of_a_step("an explanation (--explain)")
    prepared = prepare(request, progress)
    planned = plan_prepared(prepared, progress)
    if request.free_passes or planned.solution.status is not Status.INFEASIBLE:
        return planned
    told = _other_passes_do(prepared, progress)
    return replace(planned, warnings=(*planned.warnings, told)) if told else planned


def plan_prepared(prepared: Prepared, progress: Progress | None = None) -> Planned:
    """The same of what was prepared before; several may share a model, its scores and prices."""
    request = prepared.request
    if not request.free_passes:
        answer = choose_jointly(joint_question(prepared), request.solver, progress)
        return _concluded(prepared, answer, (), progress)
    found = _by_free_passes(prepared, progress)
    there = by_passes(prepared, found.passes)
    return _concluded(there, found.answer, found.alternatives, progress)


def _by_free_passes(prepared: Prepared, progress: Progress | None) -> PassesAnswer:
    return choose_passes(
        lambda passes: joint_question(by_passes(prepared, passes)),
        choices(prepared),
        prepared.request.solver,
        progress,
    )


def _other_passes_do(prepared: Prepared, progress: Progress | None) -> str | None:
    """That there is a plan by other passes, where there is none by those given."""
    found = _by_free_passes(prepared, progress)
    if found.answer.solution.plan is None:
        return None
    passes = counted(found.passes.micro_batch, "sample")
    parts = f", computed twice in {found.passes.segments} segments"
    return (
        f"in passes of {passes}{parts if found.passes.segments > 1 else ''} there is a plan: "
        "--free-passes chooses them"
    )


def _concluded(
    prepared: Prepared,
    answer: JointAnswer,
    others: tuple[Alternative, ...],
    progress: Progress | None,
) -> Planned:
    chosen = replace(prepared, problem=answer.problem)
    return conclude(chosen, answer.solution, progress, priced=answer.priced, others=others)


def asked_for(request: PlanRequest | None, asked: Mapping[str, Any]) -> PlanRequest:
    """A request with these fields; raises `InputError` for one that a request has not."""
    known = [field.name for field in fields(PlanRequest)]
    for name in asked:
        if name not in known:
            raise InputError(f"make_plan: {shown(name)} is unknown; known are {', '.join(known)}")
    given = dict(asked)
    if isinstance(given.get("device"), str | Path):
        given["device"] = load_device(str(given["device"]))
    if request is not None:
        return replace(request, **given)
    if "device" not in given:
        raise InputError("make_plan: device is missing; a name, a path or a DeviceSpec is needed")
    return PlanRequest(**given)
