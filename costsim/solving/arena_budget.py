"""A memory budget in the arena: the plan's offsets must fit, not only its live bytes.

What an arena needs has no closed form, but it is never less than the peak. So the peak is what a
solver is asked for: its optimum bounds every plan whose arena fits, and is the answer if its own
arena does. If not, less peak is allowed until an arena fits, by what the arena exceeds; then, as
less peak does not mean a smaller arena, some amounts between are tried. The best of these plans is
returned with the first bound.
"""

from dataclasses import replace

from costsim.ir.plan import UpdatePlan
from costsim.ir.program import compile_program, plan_arena
from costsim.problem.budget import at_least, describe
from costsim.problem.problem import Problem
from costsim.problem.solution import Answer, Deadline, Solver, Status
from costsim.solving.answers import answer_of

LOWERED, BETWEEN = 12, 4
"""How often less peak is allowed, and how many amounts between are tried then."""

SHARE = 1 / 16
"""Of the solver's time limit for each of these questions."""

INTERRUPTED = "interrupted"

TIE = 1e-9
"""Gains that differ by less, relatively, are equal."""


def within_arena(problem: Problem, solver: Solver) -> Answer:
    """The answer of `solver` to `problem`, whose memory budget is in the arena.

    Optimal if no plan whose arena fits gains more; feasible, with the bound, if that is not proven.
    """
    limit = problem.budget.memory_bytes
    assert limit is not None
    deadline = Deadline.after(
        getattr(solver, "time_limit_s", float("inf")), getattr(solver, "clock", "processor")
    )
    first = answer_of(_by_peak(problem, limit), solver)
    if first.plan is None:
        return first
    needed = arena_bytes(problem, first.plan)
    if needed <= limit:
        return first
    bound = problem.gain(first.plan) if first.status is Status.OPTIMAL else first.bound
    best: UpdatePlan | None = None
    allowed, above = limit, limit
    # What is proven of the other questions is of no use: a good plan is.
    solver = _hurried(solver)
    for _ in range(LOWERED):
        above, allowed = allowed, allowed - max(1, needed - limit)
        answer = answer_of(_by_peak(problem, allowed), solver) if allowed >= 0 else first
        if allowed < 0 or answer.plan is None or answer.reason == INTERRUPTED:
            break
        needed = arena_bytes(problem, answer.plan)
        if needed <= limit:
            best = answer.plan
            break
    if best is None:
        told = (
            f"no plan was found whose arena fits: the best by live bytes needs "
            f"{describe('memory_bytes', arena_bytes(problem, first.plan))} where "
            f"{describe('memory_bytes', limit)} is allowed; "
            f"{at_least('memory_bytes', arena_bytes(problem, first.plan))} would do"
        )
        status = Status.INFEASIBLE if bound is None else Status.TIME_LIMIT
        return Answer(None, status, bound, told)
    for _ in range(BETWEEN):
        middle = (allowed + above) // 2
        if middle in (allowed, above) or deadline.passed:
            break
        answer = answer_of(_by_peak(problem, middle), solver)
        if answer.plan is not None and arena_bytes(problem, answer.plan) <= limit:
            allowed = middle
            if problem.gain(answer.plan) > problem.gain(best):
                best = answer.plan
        else:
            above = middle
        if answer.reason == INTERRUPTED:
            return Answer(best, Status.TIME_LIMIT, bound, INTERRUPTED)
    proven = bound is not None and problem.gain(best) >= bound * (1 - TIE)
    if proven:
        return Answer(best, Status.OPTIMAL, problem.gain(best))
    return Answer(
        best, Status.FEASIBLE, bound, "the best plan by live bytes has an arena that does not fit"
    )


def _hurried(solver: Solver) -> Solver:
    """The solver with a part of its time limit, if it has one."""
    limit = getattr(solver, "time_limit_s", None)
    if limit is None:
        return solver
    hurried: Solver = replace(solver, time_limit_s=limit * SHARE)  # type: ignore[type-var]
    return hurried


def arena_bytes(problem: Problem, plan: UpdatePlan) -> int:
    """What the arena of one step of `plan` needs."""
    return plan_arena(
        compile_program(problem.graph, plan, problem.step, problem.schedule)
    ).size_bytes


def _by_peak(problem: Problem, allowed: int) -> Problem:
    return problem.within(replace(problem.budget, memory_bytes=allowed, accounting="peak"))
