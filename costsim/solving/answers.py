"""What a solver says to one problem, held to be an answer at all.

Solvers, and the libraries they call, are others' code: whatever they raise, print or return that is
none, is their fault, told in one line. What they say of their plan is `costsim.solving.solve`'s to
check.
"""

import math

from costsim.base.code import others_prints_aside
from costsim.base.errors import CostsimError, InvalidSolution, shown
from costsim.ir.plan import UpdatePlan
from costsim.problem.problem import Problem
from costsim.problem.solution import Answer, Solver, Status


def answer_of(problem: Problem, solver: Solver) -> Answer:
    """What `solver` answers; raises `InvalidSolution` where it fails or that is no answer."""
    try:
        with others_prints_aside():
            answer: object = solver(problem)
    except (CostsimError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        told = " ".join(str(error).split())
        raise InvalidSolution(
            f"solver {solver.name} failed: {type(error).__name__}: {told}"
        ) from error
    if not isinstance(answer, Answer):
        raise InvalidSolution(
            f"solver {solver.name} answers with {shown(answer)}; a costsim.problem.solution.Answer "
            "is needed"
        )
    if wrong := _wrong(answer):
        raise InvalidSolution(f"solver {solver.name} answers with {wrong}")
    return answer


def _wrong(answer: Answer) -> str:
    """What is wrong with the fields of an answer; empty where nothing is."""
    plan, status, bound = answer.plan, answer.status, answer.bound
    if not isinstance(plan, UpdatePlan | None):
        return f"the plan {shown(plan)}; a costsim.ir.plan.UpdatePlan or None is needed"
    if not isinstance(status, Status):
        return f"the status {shown(status)}; one of costsim.problem.solution.Status is needed"
    if (plan is None) is (status in (Status.OPTIMAL, Status.FEASIBLE)):
        has = "no plan" if plan is None else "a plan"
        if status is not Status.TIME_LIMIT:
            return f"{has} and the status {status}, which do not go together"
    if bound is not None and not _is_number(bound):
        return f"the bound {shown(bound)}; a number or None is needed"
    if not isinstance(answer.reason, str):
        return f"the reason {shown(answer.reason)}; a text is needed"
    return ""


def _is_number(value: object) -> bool:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and not math.isnan(value)  # type: ignore[arg-type]
