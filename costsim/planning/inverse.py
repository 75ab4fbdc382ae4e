"""Planning backwards: the least budget, or the most work, with which a share of the gain is left.

The gain of the optimum never falls when a budget grows, so whether a budget reaches the share is
false up to some amount and true from there on; bisection finds that amount exactly, and every
question it asks is answered with a proof. The same holds for the batch. Resolutions and devices
are few and are tried in order.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from costsim.base.progress import Progress, silent
from costsim.base.units import format_percent
from costsim.models.inputs import SMALLEST_RESOLUTION
from costsim.planning import PlanRequest, Prepared, prepare
from costsim.problem.budget import BUDGETS, describe
from costsim.problem.problem import Problem
from costsim.problem.solution import Answer, Solution, Solver, Status
from costsim.solving.pareto import TIE, lifted, within
from costsim.solving.solve import KnownAnswer, relaxations, solve, solve_uninterrupted

UNITS: Mapping[str, float] = {"memory_bytes": 1, "macs": 1, "latency_s": 1e-6}
"""What the least of a limit is found to."""

LARGEST_BATCH = 1024
RESOLUTIONS = 8
"""Resolutions are multiples of this, up to twice that at which the model was scored."""


@dataclass(frozen=True)
class Found:
    """What was sought, or None, and the problem and its solution that reach the share with it.

    Where nothing reaches it, they are those of the greatest gain there is. `reached` is the share
    of the full gain. `proven`: nothing less (or no more work) would do; without it a question was
    not answered in the time.
    """

    value: float | str | None
    prepared: Prepared
    solution: Solution
    reached: float
    proven: bool


def smallest_budget(
    problem: Problem, solver: Solver, limit: str, share: float, progress: Progress | None = None
) -> tuple[float | None, Solution, bool]:
    """The least of `limit` that reaches `share` of the full gain, the other limits held.

    In whole bytes, MACs or microseconds; None if no amount does. With it the solution within that
    amount (or within any), and whether all of it is proven.
    """
    report = progress or silent
    unit = UNITS[limit]
    target = share * problem.importance.full_gain
    unlimited = lifted(problem, limit)
    best = solve_uninterrupted(unlimited, solver)
    if not _reaches(best, target):
        return None, best, _is_answered(best, target)
    assert best.plan is not None
    least = relaxations(within(unlimited, limit, 0))[limit]
    assert least is not None
    fails = _units(least, unit) - 1
    does = _units(unlimited.plan_usage(best.plan)[limit], unit)
    proven = True
    while does - fails > 1:
        report(f"solving: between {fails * unit:.6g} and {does * unit:.6g}", 0, 0)
        middle = (fails + does) // 2
        asked = within(unlimited, limit, middle * unit)
        solution = solve_uninterrupted(asked, solver)
        if _reaches(solution, target):
            assert solution.plan is not None
            best, does = solution, min(middle, _units(asked.plan_usage(solution.plan)[limit], unit))
        else:
            proven &= _is_answered(solution, target)
            fails = middle
    return does * unit, best, proven


def find_budget(
    request: PlanRequest, sought: str, share: float, progress: Progress | None = None
) -> Found:
    """The smallest budget `sought` that reaches `share`, by a `request.solver` that proves."""
    request.check_of_a_step(f"--solve-for {sought}")
    prepared = prepare(request, progress)
    limit = BUDGETS[sought]
    amount, solution, proven = smallest_budget(
        prepared.problem, request.solver, limit, share, progress
    )
    problem = lifted(prepared.problem, limit)
    if amount is not None:
        problem = within(problem, limit, amount)
    return _found(amount, replace(prepared, problem=problem), solution, proven)


def find_batch(request: PlanRequest, share: float, progress: Progress | None = None) -> Found:
    """The largest batch, up to `LARGEST_BATCH`, with which the budgets still reach `share`."""
    report = progress or silent
    request.check_of_a_step("--solve-for batch")
    first = prepare(request.with_batch(1), progress)
    proven = True

    def attempt(batch: int) -> tuple[Prepared, Solution, bool]:
        nonlocal proven
        report(f"solving: batch {batch}", 0, 0)
        prepared = first
        if batch > 1:
            prepared = prepare(request.with_batch(batch), None, first.scored)
        solution = solve_uninterrupted(prepared.problem, request.solver)
        target = share * prepared.problem.importance.full_gain
        reaches = _reaches(solution, target)
        proven &= reaches or _is_answered(solution, target)
        return prepared, solution, reaches

    prepared, solution, reaches = attempt(1)
    if not reaches:
        return _found(None, prepared, solution, proven)
    does, fails, best = 1, LARGEST_BATCH + 1, (prepared, solution)
    while fails - does > 1:
        middle = (
            min(2 * does, (does + fails) // 2) if fails > LARGEST_BATCH else (does + fails) // 2
        )
        prepared, solution, reaches = attempt(middle)
        if reaches:
            does, best = middle, (prepared, solution)
        else:
            fails = middle
    return _found(does, *best, proven)


def find_resolution(request: PlanRequest, share: float, progress: Progress | None = None) -> Found:
    """The largest resolution with which the budgets still reach `share`.

    Channels are scored once, at the model's own resolution, and their scores held: what changes
    with the resolution is the cost.
    """
    report = progress or silent
    request.check_of_a_step("--solve-for resolution")
    own = prepare(request, progress)
    side = int(own.loaded.example_input.shape[-1])
    top = 2 * side // RESOLUTIONS * RESOLUTIONS
    sizes = list(range(top, SMALLEST_RESOLUTION - 1, -RESOLUTIONS))
    proven, last = True, None
    for done, size in enumerate(sizes):
        report(f"solving: {size} pixels", done, len(sizes))
        prepared = prepare(replace(request, resolution=size), None, own.scored)
        solution = solve_uninterrupted(prepared.problem, request.solver)
        target = share * prepared.problem.importance.full_gain
        if _reaches(solution, target):
            return _found(size, prepared, solution, proven)
        proven &= _is_answered(solution, target)
        last = prepared, solution
    assert last is not None
    return _found(None, *last, proven)


def find_device(
    requests: Sequence[PlanRequest], share: float, progress: Progress | None = None
) -> Found:
    """The first device of `requests`, least memory for training first, that reaches `share`.

    Each within its own recommended budgets, where none were given.
    """
    report = progress or silent
    scored, proven = None, True
    best: tuple[Prepared, Solution] | None = None
    for request in sorted(requests, key=lambda one: (one.device.ram_bytes, one.device.name)):
        request.check_of_a_step("--solve-for device")
        report(f"solving: {request.device.name}", 0, 0)
        prepared = prepare(request, progress if scored is None else None, scored)
        scored = prepared.scored
        solution = solve_uninterrupted(prepared.problem, request.solver)
        target = share * prepared.problem.importance.full_gain
        if _reaches(solution, target):
            return _found(request.device.name, prepared, solution, proven)
        proven &= _is_answered(solution, target)
        if best is None or (solution.objective or 0.0) > (best[1].objective or 0.0):
            best = prepared, solution
    assert best is not None
    return _found(None, *best, proven)


def sentence(found: Found, sought: str, share: float) -> str:
    """What was found, for a person."""
    wanted, reached = f"{format_percent(share)} of all gain", format_percent(found.reached)
    if found.value is None:
        there = "is reached" if found.proven else "was reached in the time"
        what = {"device": "No shipped device reaches", "batch": "No batch reaches"}.get(
            sought, f"No {sought} budget reaches" if sought in BUDGETS else "No resolution reaches"
        )
        return f"{what} {wanted} within the other budgets; at most {reached} {there}."
    if sought in BUDGETS:
        amount = describe(BUDGETS[sought], float(found.value))
        whole = "" if sought == "latency" else f" ({found.value:,})"
        answer, nothing = f"The smallest budget is {amount}{whole}", "nothing less does"
    elif sought == "device":
        answer = f"The device with the least memory for training is {found.value}"
        nothing = "no smaller one does"
    else:
        unit = "" if sought == "batch" else " pixels"
        answer, nothing = f"The largest {sought} is {found.value}{unit}", "none larger does"
        if sought == "batch" and found.value == LARGEST_BATCH:
            nothing = "larger ones were not tried"
    sure = nothing if found.proven else "not proven in the time"
    return f"{answer} for {wanted}: it reaches {reached}; {sure}."


def _found(
    value: float | str | None, prepared: Prepared, solution: Solution, proven: bool
) -> Found:
    reached = prepared.problem.importance.share(solution.objective) or 0.0
    request, problem = prepared.request, prepared.problem
    # again, for the device: the solution was priced without it
    if solution.plan is not None:
        answer = Answer(solution.plan, solution.status, solution.bound, solution.reason)
        fixed = KnownAnswer(solution.solver, answer)
        solution = replace(
            solve(problem, fixed, device=request.device, target=request.target),
            seconds=solution.seconds,
        )
    return Found(value, prepared, solution, reached, proven)


def _reaches(solution: Solution, target: float) -> bool:
    return solution.objective is not None and solution.objective >= target * (1 - TIE)


def _is_answered(solution: Solution, target: float) -> bool:
    """Whether a solution that does not reach `target` shows that no plan does."""
    if solution.status in (Status.OPTIMAL, Status.INFEASIBLE):
        return True
    return solution.bound is not None and solution.bound < target


def _units(amount: float, unit: float) -> int:
    return math.ceil(amount / unit * (1 - 1e-12))
