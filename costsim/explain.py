"""Why a plan is what it is: what more of a budget would bring, why a layer was left out.

Nothing here is read off multipliers, which misprice what can only be had whole. Each statement is
the proven optimum of another problem: with a little more of one limit, without it, or with a layer
that must be updated.
"""

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from costsim.budget import describe, with_unit
from costsim.plan import UpdatePlan
from costsim.problem import Problem
from costsim.progress import Progress, silent
from costsim.solution import Solution, Solver, Status
from costsim.solve import relaxations, solve_uninterrupted

TIE = 1e-9
"""Gains that differ by less, relatively, are equal: what the proofs are accurate to."""

DOUBLINGS = 20

_NO_SCORE = {
    "channels": "every channel's score",
    "bias": "the score of its bias",
    "channels and bias": "the score of its bias and of every channel",
}

_MORE = {
    "memory_bytes": "more memory",
    "working_bytes": "more memory on the device",
    "macs": "more in the backward pass",
    "latency_s": "more for a step",
    "energy_j": "more for a step",
}


@dataclass(frozen=True, slots=True)
class LimitPrice:
    """What more of one limit would bring, the others held.

    `slack`: any amount more brings nothing. Otherwise `more` of it, in bytes, MACs, seconds or
    joules, raises the greatest gain by the share `rise` (infinite: from nothing); None if no amount
    tried did. `proven`:
    the optima behind it were all proven; otherwise `rise` is what was found in the time.
    """

    limit: str
    allowed: float
    slack: bool
    more: float | None
    rise: float | None
    proven: bool

    @property
    def sentence(self) -> str:
        """For a person."""
        budget = f"The limit on {describe(self.limit, self.allowed).removesuffix(self._allowed)}"
        if self.slack:
            return f"{budget}is slack: more than {self._allowed} would bring nothing."
        if self.more is None or self.rise is None:
            return f"{budget}binds, but no amount more that was tried raised the gain."
        gain = f"raise the gain by {'' if self.proven else 'at least '}{_percent(self.rise)}"
        if self.rise == math.inf:
            gain = "make a gain possible"
        return f"{_more(self.limit, self.more)} than {self._allowed} would {gain}."

    @property
    def _allowed(self) -> str:
        return with_unit(self.limit, self.allowed)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A layer of which the plan updates nothing that was scored, and why.

    `why` is `does not fit` (one channel alone breaks `breaks`), `no gain` (all scores are 0),
    `overlooked` (the proven optimum updates it) or `worth less`. `share` of the full gain is that
    of what was `scored`: its channels, its bias or both. `takes` is what its best channel, or if
    `bias_alone` its bias, costs on top of the optimum, by limit; the best plan that updates the
    layer at all gains the share `loss` less than the optimum (`proven`, or at most so much).
    """

    layer: str
    why: str
    share: float
    breaks: tuple[str, ...] = ()
    takes: tuple[tuple[str, float], ...] = ()
    loss: float | None = None
    proven: bool = True
    scored: Literal["channels", "bias", "channels and bias"] = "channels"
    bias_alone: bool = False

    @property
    def sentence(self) -> str:
        """For a person."""
        only_bias = self.scored == "bias"
        held = f"its {self.scored} hold{'s' * only_bias} {_percent(self.share)} of all gain"
        match self.why:
            case "no gain":
                return f"{self.layer}: {_NO_SCORE[self.scored]} is 0."
            case "does not fit":
                alone = ", ".join(describe(name, amount) for name, amount in self.takes)
                one = "its bias" if self.bias_alone else "one channel"
                return f"{self.layer}: does not fit; {one} alone takes {alone} ({held})."
            case "overlooked":
                return f"{self.layer}: the proven optimum updates it ({held})."
        extra = [_more(name, amount) for name, amount in self.takes if amount > 0]
        who = ", the best" if self.scored == "channels" else ", the best channel"
        if self.bias_alone:
            who = " and" if only_bias else ", the bias"
        takes = f"{who} takes {' and '.join(extra)}" if extra else ""
        loss = self.loss or 0.0
        if loss <= TIE:
            verdict = "a plan that updates it gains as much, not more"
        else:
            bound = "" if self.proven else "at most "
            verdict = f"the best plan that updates it gains {bound}{_percent(loss)} less"
        return f"{self.layer}: {held}{takes}; {verdict}."


@dataclass(frozen=True, slots=True)
class Relaxation:
    """The least of one limit, the others held, with which anything fits; None: no amount would."""

    limit: str
    allowed: float
    least: float | None

    @property
    def sentence(self) -> str:
        """For a person."""
        now = describe(self.limit, self.allowed)
        if self.least is None:
            return f"More than {now} would not do, however much."
        unit = {"memory_bytes": "B", "working_bytes": "B", "macs": "MACs"}.get(self.limit)
        exact = f" ({self.least:,.0f} {unit})" if unit else ""
        return f"{_upper(describe(self.limit, self.least))}{exact} instead of {now} would do."


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a plan is what it is.

    `optimum` is the greatest gain of any plan within the budgets and `missed` the share of it that
    the plan misses; None where nothing fits. `relaxations` are empty where something does.
    """

    optimum: float | None
    missed: float | None
    proven: bool
    limits: tuple[LimitPrice, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    relaxations: tuple[Relaxation, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The `explanation` of a plan file."""
        document = asdict(self)
        for name in ("limits", "left_out", "relaxations"):
            document[name] = [
                asdict(entry) | {"sentence": entry.sentence} for entry in getattr(self, name)
            ]
        for entry in document["limits"]:
            if entry["rise"] == math.inf:  # JSON has no infinity
                entry["rise"] = None
        for entry in document["left_out"]:
            entry["takes"] = dict(entry["takes"])
            entry["breaks"] = list(entry["breaks"])
            del entry["scored"], entry["bias_alone"]  # the sentence says so
        return document


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
    missed = max(0.0, 1 - gain / best.objective) if best.objective > 0 else 0.0
    return Explanation(
        best.objective, 0.0 if missed <= TIE else missed, proven, tuple(limits), tuple(left_out)
    )


def _price(
    problem: Problem, solver: Solver, best: Solution, limit: str, allowed: float
) -> LimitPrice:
    without = _solved(problem, solver, limit, None)
    proven = best.status is without.status is Status.OPTIMAL
    if proven and not _rise(best, without):
        return LimitPrice(limit, allowed, True, None, None, True)
    more = little(limit, allowed)
    for _ in range(DOUBLINGS):
        found = _solved(problem, solver, limit, allowed + more)
        if rise := _rise(best, found):
            proven = best.status is found.status is Status.OPTIMAL
            return LimitPrice(limit, allowed, False, more, rise, proven)
        more *= 2
    return LimitPrice(limit, allowed, False, None, None, False)


def _rise(best: Solution, other: Solution) -> float:
    """By which share the gain rises; 0 if by no more than rounding."""
    gain, least = other.objective or 0.0, best.objective or 0.0
    if least <= 0:
        return math.inf if gain > 0 else 0.0
    rise = gain / least - 1
    return rise if rise > TIE else 0.0


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
    gain, whole = problem.layer_gains[layer], sum(problem.layer_gains.values())
    richest = max(indices, key=lambda i: float(problem.candidates[i].cumulative[-1]))
    share = gain / whole if whole > 0 else 0.0
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
    loss = max(0.0, 1 - most / best.objective) if best.objective else 0.0
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
        loss=0.0 if loss <= TIE else loss,
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


def _more(limit: str, amount: float) -> str:
    return f"{with_unit(limit, amount)} {_MORE[limit]}"


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _percent(share: float) -> str:
    """A share for a person: two digits that matter."""
    percent = 100 * share
    return f"{percent:.1f} %" if percent >= 1 else f"{percent:.2g} %"
