"""What an explanation rests on: questions to a solver that proves its answers.

Nothing is read off multipliers, which misprice what can only be had whole. Each statement is
the proven optimum of another problem: with a little more of one limit, without it, or with a layer
that must be updated.
"""

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import Any, Literal

from costsim.base.progress import Progress, silent
from costsim.ir.plan import UpdatePlan
from costsim.problem.budget import describe
from costsim.problem.problem import Problem
from costsim.problem.solution import Solution, Solver, Status
from costsim.solving.explain.sentences import TIE, Explanation, LeftOut, LimitPrice, Relaxation
from costsim.solving.solve import relaxations, solve_uninterrupted

DOUBLINGS = 20
"""How often the amount is doubled that brings nothing yet."""


def explain(
    problem: Problem, solution: Solution, solver: Solver, progress: Progress | None = None
) -> Explanation:
    """Explain `solution` of `problem`; `solver` answers the questions, so it must prove optima."""
    report = progress or silent
    report("explaining: the optimum", 0, 0)
    best = solution if solution.status is Status.OPTIMAL else solve_uninterrupted(problem, solver)
    proven = best.status is not Status.TIME_LIMIT
    if best.plan is None or best.objective is None:
        if not proven:
            return Explanation(None, None, False)
        least = relaxations(problem)
        return Explanation(
            None,
            None,
            True,
            relaxations=tuple(Relaxation(n, a, least[n]) for n, a in problem.limits()),
        )
    limits, left_out = [], []
    for name, allowed in problem.limits():
        report(f"explaining: {describe(name, allowed)}", 0, 0)
        limits.append(_price(problem, solver, best, name, allowed))
    chosen = set() if solution.plan is None else _updated(problem, solution.plan)
    others = [name for name in problem.importance.layers if name not in chosen]
    for done, layer in enumerate(others):
        report("explaining: layers left out", done, len(others))
        left_out.append(_left_out(problem, solver, best, layer))
    gain = 0.0 if solution.objective is None else solution.objective
    missed = _difference(problem, best.objective, gain)
    return Explanation(best.objective, missed, proven, tuple(limits), tuple(left_out))


def _price(
    problem: Problem, solver: Solver, best: Solution, limit: str, allowed: float
) -> LimitPrice:
    without = _solved(problem, solver, limit, None)
    proven = best.status is without.status is Status.OPTIMAL
    if proven and not _rise(problem, best, without):
        return LimitPrice(limit, allowed, True, None, None, True)
    more = little(limit, allowed)
    for _ in range(DOUBLINGS):
        found = _solved(problem, solver, limit, allowed + more)
        if rise := _rise(problem, best, found):
            proven = best.status is found.status is Status.OPTIMAL
            return LimitPrice(limit, allowed, False, more, rise, proven)
        more *= 2
    return LimitPrice(limit, allowed, False, None, None, False)


def _rise(problem: Problem, best: Solution, other: Solution) -> float:
    """By which share of all gain the gain rises; 0 if by no more than rounding."""
    return _difference(problem, other.objective or 0.0, best.objective or 0.0)


def _difference(problem: Problem, more: float, less: float) -> float:
    """By how much one gain is above another, as a share of all gain; 0 if by rounding alone."""
    if more - less <= TIE * more:
        return 0.0
    return problem.importance.share(more - less) or 0.0


def _solved(problem: Problem, solver: Solver, limit: str, allowed: float | None) -> Solution:
    changed: dict[str, Any] = {limit: allowed}
    return solve_uninterrupted(problem.within(replace(problem.budget, **changed)), solver)


def little(limit: str, allowed: float) -> float:
    """A round amount that is a little beside `allowed`: a sixteenth at most.

    Bytes come in powers of two, everything else in 1, 2 or 5 times a power of ten.
    """
    share = allowed / 16
    if limit in ("memory_bytes", "working_bytes"):
        return 2 ** int(math.log2(share)) if share >= 1 else 1
    if limit == "macs" and share < 1:
        return 1
    if share <= 0:
        return 1e-3
    ten = 10.0 ** math.floor(math.log10(share))
    amount = next(times * ten for times in (5, 2, 1) if times * ten <= share * (1 + 1e-9))
    return round(amount) if limit == "macs" else amount


def _left_out(problem: Problem, solver: Solver, best: Solution, layer: str) -> LeftOut:
    assert best.plan is not None
    indices = [i for i, c in enumerate(problem.candidates) if c.layer == layer]
    gain = problem.importance.layer_gains[layer]
    richest = max(indices, key=lambda i: float(problem.candidates[i].cumulative[-1]))
    share = problem.importance.share(gain) or 0.0
    scored = _scored(problem, indices)
    if layer in _updated(problem, best.plan):
        return LeftOut(layer, "overlooked", share, scored=scored)
    if gain <= 0:
        return LeftOut(layer, "no gain", share, scored=scored)
    alone = {i: problem.exceeded(_single(problem, i)) for i in indices}
    if all(alone.values()):
        index = min(alone, key=lambda i: len(alone[i]))
        takes = tuple((name, used) for name, (used, _) in alone[index].items())
        return LeftOut(
            layer,
            "does not fit",
            share,
            tuple(alone[index]),
            takes,
            scored=scored,
            bias_alone=problem.candidates[index].axis == "bias",
        )
    index = richest if not alone[richest] else next(i for i in indices if not alone[i])
    answers = [solve_uninterrupted(forced(problem, i), solver) for i in indices if not alone[i]]
    gains = [
        a.objective for a in answers if a.plan is not None and layer in _updated(problem, a.plan)
    ]
    proven = all(a.status is Status.OPTIMAL for a in (best, *answers))
    most = max((g for g in gains if g is not None), default=0.0)
    before = problem.plan_usage(best.plan)
    single = _single(problem, index)
    after = problem.plan_usage(
        UpdatePlan(best.plan.subsets + single.subsets, best.plan.biases | single.biases)
    )
    takes = tuple((n, after[n] - before[n]) for n in after if n != "working_bytes")
    return LeftOut(
        layer,
        "worth less",
        share,
        takes=takes,
        loss=_difference(problem, best.objective or 0.0, most),
        proven=proven,
        scored=scored,
        bias_alone=problem.candidates[index].axis == "bias",
    )


def _scored(
    problem: Problem, indices: Sequence[int]
) -> Literal["channels", "bias", "channels and bias"]:
    """What the candidates of a layer are of."""
    axes = {problem.candidates[i].axis for i in indices}
    if "bias" not in axes:
        return "channels"
    return "bias" if axes == {"bias"} else "channels and bias"


def _updated(problem: Problem, plan: UpdatePlan) -> set[str]:
    """The layers of which `plan` updates channels, or a bias that could be chosen."""
    biases = {c.layer for c in problem.candidates if c.axis == "bias"} & plan.biases
    return set(plan.by_layer) | biases


def _single(problem: Problem, index: int) -> UpdatePlan:
    """The best channel of one candidate, alone."""
    return problem.plan([int(i == index) for i in range(len(problem.candidates))])


def forced(problem: Problem, index: int) -> Problem:
    """`problem` whose optimum opens candidate `index`, if any plan does.

    Its best channel is worth more than all others together; so the plans that open it come first,
    and among them the order is as before.
    """
    bonus = 2 * sum(float(c.cumulative[-1]) for c in problem.candidates) or 1.0
    chosen = problem.candidates[index]
    worth = replace(chosen, gains=(chosen.gains[0] + bonus, *chosen.gains[1:]))
    other = copy(problem)
    other.candidates = (*problem.candidates[:index], worth, *problem.candidates[index + 1 :])
    return other
