"""Ask a solver, and believe nothing it says about its plan."""

import math
import time
from dataclasses import dataclass

import numpy as np

from costsim.base.errors import InvalidSolution
from costsim.device import DeviceSpec
from costsim.ir.plan import UpdatePlan
from costsim.ir.program import compile_program
from costsim.pricing.cost import Cost, price
from costsim.problem.budget import at_least, describe
from costsim.problem.problem import ROUNDING, Problem
from costsim.problem.solution import Answer, Solution, Solver, Status
from costsim.solving.answers import answer_of
from costsim.solving.arena_budget import INTERRUPTED, within_arena

RELATIVE_TOLERANCE = 1e-9
"""Rounding allowed between a bound and the objective of a plan proven optimal, and in seconds."""


def solve(
    problem: Problem, solver: Solver, *, device: DeviceSpec | None = None, target: str | None = None
) -> Solution:
    """Let `solver` choose a plan for `problem`; compile and price it again, and check it.

    Raises `InvalidSolution` if the plan breaks a budget or its objective its own bound, and where
    the solver fails.
    """
    started = time.perf_counter()
    answer = ask(problem, solver)
    seconds = time.perf_counter() - started
    bound = answer.bound if answer.bound is not None and math.isfinite(answer.bound) else None
    if answer.plan is None:
        reason = answer.reason or infeasibility(problem)
        return Solution(solver.name, None, None, answer.status, None, bound, seconds, reason)
    cost = price(
        compile_program(problem.graph, answer.plan, problem.step, problem.schedule), device, target
    )
    _check(problem, solver.name, answer, answer.plan, cost)
    objective = problem.gain(answer.plan)
    return Solution(
        solver.name,
        answer.plan,
        cost,
        answer.status,
        objective,
        None if bound is None else max(bound, objective),  # but for rounding
        seconds,
        answer.reason or _restriction(problem, answer.status),
    )


def ask(problem: Problem, solver: Solver) -> Answer:
    """What `solver` says, unchecked: for searches that check what they keep of many answers.

    Raises `InvalidSolution` where the solver fails, or what it says is no answer.
    """
    budget = problem.budget
    if budget.accounting == "arena" and budget.memory_bytes is not None:
        return within_arena(problem, solver)
    return answer_of(problem, solver)


@dataclass(frozen=True)
class KnownAnswer:
    """A solver that knows the answer, by the name of who found it."""

    name: str
    answer: Answer

    def __call__(self, problem: Problem) -> Answer:
        """The answer, whatever the problem."""
        return self.answer


def solve_uninterrupted(problem: Problem, solver: Solver) -> Solution:
    """`solve` for whoever asks many questions: Ctrl-C in one of them ends them all.

    A solver that is interrupted answers with the best plan it has; taken for an answer it would
    cost the user a Ctrl-C for every question that is left. Raises `KeyboardInterrupt` instead.
    """
    solution = solve(problem, solver)
    if solution.reason == INTERRUPTED:
        raise KeyboardInterrupt
    return solution


def _restriction(problem: Problem, status: Status) -> str:
    """What a proof leaves out, where the problem leaves something out."""
    if status is Status.OPTIMAL and problem.restricted:
        return "among plans that keep channels of one tensor for one layer only: " + "; ".join(
            " or ".join(layers) for layers in problem.restricted
        )
    return ""


def _check(problem: Problem, name: str, answer: Answer, plan: UpdatePlan, cost: Cost) -> None:
    usage: dict[str, float] = {
        "memory_bytes": cost.memory.in_accounting(problem.budget.accounting),
        "working_bytes": cost.memory.peak_bytes,
        "macs": cost.macs.backward,
    }
    if cost.on_device is not None:
        usage["latency_s"] = cost.on_device.latency_s.value
        if problem.compute_w is not None:
            usage["energy_j"] = cost.on_device.latency_s.value * problem.compute_w
    else:
        usage |= {k: v for k, v in problem.plan_usage(plan).items() if k not in usage}
    for limit_name, limit in problem.limits():
        if usage[limit_name] > limit * (1 + RELATIVE_TOLERANCE):
            raise InvalidSolution(
                f"solver {name} returned a plan outside the budget: it takes "
                f"{describe(limit_name, usage[limit_name])}, allowed is "
                f"{describe(limit_name, limit)}"
            )
    objective = problem.gain(plan)
    if answer.bound is not None and objective > answer.bound * (1 + 1e-6) + 1e-300:
        raise InvalidSolution(
            f"solver {name} returned a plan with gain {objective} above its bound {answer.bound}"
        )


def relaxations(problem: Problem) -> dict[str, float | None]:
    """For each limit that is set, the least of it, with the others held, that lets a channel fit.

    None where no amount of that limit alone would do. Costs never fall when a plan grows, so the
    best single channels say what is possible.
    """
    usage = problem.usage(np.eye(len(problem.candidates), dtype=np.int64))
    limits = dict(problem.limits())
    within = {name: usage[name] <= limit * (1 + ROUNDING) for name, limit in limits.items()}
    found: dict[str, float | None] = {}
    for name in limits:
        others = [within[other] for other in limits if other != name]
        able = usage[name][np.logical_and.reduce(others)] if others else usage[name]
        found[name] = able.min().item() if len(able) else None
    return found


def infeasibility(problem: Problem) -> str:
    """Why no plan fits, and the smallest budget that would do, each limit alone.

    A solver that finds none where there are some is told of as it is.
    """
    limits = dict(problem.limits())
    least = {name: value for name, value in relaxations(problem).items() if value is not None}
    if any(value <= limits[name] * (1 + ROUNDING) for name, value in least.items()):
        return "the solver found none, though single channels are within them"
    if least:
        enough = [
            f"{describe(name, limits[name])} is too little, {at_least(name, value)} would do"
            for name, value in least.items()
        ]
        live = " (live bytes; their arena may need more)"
        more = live if problem.budget.accounting == "arena" else ""
        return f"no channel of any inspected layer fits: {'; '.join(enough)}{more}"
    together = joint_relaxation(problem)
    little = " and ".join(describe(name, limits[name]) for name in together)
    enough = [at_least(name, value) for name, value in together.items()]
    return (
        f"no channel of any inspected layer fits: {little} are too little, "
        f"{' and '.join(enough)} would do together"
    )


def joint_relaxation(problem: Problem) -> dict[str, float]:
    """What the channel that is nearest to fitting takes of the limits that it exceeds."""
    usage = problem.usage(np.eye(len(problem.candidates), dtype=np.int64))
    limits = dict(problem.limits())
    excess = [usage[name] / max(limit, 1e-300) for name, limit in limits.items()]
    nearest = int(np.argmin(np.max(excess, axis=0)))
    return {
        name: usage[name][nearest].item()
        for name, limit in limits.items()
        if usage[name][nearest] > limit * (1 + ROUNDING)
    }
