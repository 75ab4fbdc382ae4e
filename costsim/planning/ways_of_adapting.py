"""The ways of adapting by one recipe, and the best plan of each.

What a whole adaptation costs is affine in what a step of its plan costs: every phase but training
does the same whatever is trained, and training is so many steps. So for each way of adapting (a
recipe, where it cuts the network, and where it keeps the values at the cut) the budgets of the
whole are budgets of a step, and the best plan of that way is found by any solver of steps, among
the layers behind the cut.
"""

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, pairwise
from math import inf

import numpy as np

from costsim.base.progress import Progress
from costsim.ir.cuts import between, cuts, last_frozen_cut, updated_layers
from costsim.ir.plan import UpdatePlan
from costsim.ir.program.adaptation import frozen_cuts
from costsim.ir.recipe import CacheIn, Recipe
from costsim.planning.least_usage import LeastUsage
from costsim.planning.recipes import choose_cache, recomputes
from costsim.planning.task_on_device import Asked
from costsim.pricing.adaptation import AdaptationCost
from costsim.pricing.table import Charge
from costsim.problem.budget import Budget
from costsim.problem.problem import Problem
from costsim.problem.solution import ANY_GAIN, Aim, Answer, Solution, Solver, Status, aiming
from costsim.problem.task_budget import TaskBudget, described, enough
from costsim.solving.arena_budget import INTERRUPTED
from costsim.solving.pareto import TIE
from costsim.solving.solve import KnownAnswer, ask, solve

SURE = 1e-6
"""By what share seconds are over a limit that is surely broken, however they were summed up."""

BELOW = 1.5 * TIE
"""How far below a gain plans are still looked for that gain as much, as a share of all gains."""


@dataclass(frozen=True)
class Side:
    """Steps of one kind: the choice of channels for them, and what prices an adaptation by them.

    The plan of `asked` is left aside.
    """

    problem: Problem
    asked: Asked


@dataclass(frozen=True)
class Way:
    """One way of adapting: what may be trained by it, and the budgets of a step that it leaves.

    `tight`: with what lies in RAM beside a step taken off.
    """

    recipe: Recipe
    layers: frozenset[str]
    budget: Budget
    tight: Budget


@dataclass(frozen=True)
class Found:
    """The best plan of one way, and the greatest gain that the way can have at all.

    `of_all`: that any way of its recipe can have.
    """

    way: Way
    solution: Solution
    bound: float
    of_all: bool = False

    @property
    def gain(self) -> float:
        """Of the plan; less than any where there is none."""
        return -1.0 if self.solution.objective is None else self.solution.objective


class SideSearch:
    """Over the ways of one recipe: the best plan of each."""

    def __init__(
        self, side: Side, caches: tuple[CacheIn, ...], solver: Solver, report: Progress
    ) -> None:
        self.side, self.caches, self.solver, self.report = side, caches, solver, report
        self.problem, self.asked = side.problem, side.asked
        self._by_layers: dict[frozenset[str], Problem] = {}
        self._by_recipe: dict[Recipe, tuple[Way, ...] | None] = {}
        self.seconds = 0.0
        self.ceiling = inf
        self.solved = 0

    def alone(self) -> Solution:
        """The best plan without budgets of the whole; from then on no way is held to gain more."""
        found = self._solve(self.problem)
        if found.bound is not None:
            self.ceiling = found.bound
        return found

    def reaching(
        self, recipe: Recipe, gain: float, able: Collection[frozenset[str]] | None
    ) -> Iterator[Found]:
        """Plans that gain as much as `gain`, of which one is enough; see `best`.

        `able`: of ways that train among one of these sets of layers alone.
        """
        return self._best(recipe, Aim(self._below(gain), gain * (1 - TIE)), gain, able)

    def best(self, recipe: Recipe, known: float = -1.0) -> Iterator[Found]:
        """The best plan of each way that may gain more than is `known` and was found so far.

        Of all ways at once, where that is proven. Where one gains all that can be gained at all,
        that is enough. Ways that can train most come first: where they are able to, no other is
        looked at.
        """
        above = self._below(known) if known < 0 else known * (1 + TIE)
        return self._best(recipe, Aim(above, self.ceiling * (1 - TIE)), known)

    def _best(
        self,
        recipe: Recipe,
        aim: Aim,
        greatest: float,
        able: Collection[frozenset[str]] | None = None,
    ) -> Iterator[Found]:
        of_all, ceiling = self._of_all(recipe, aim, self._outlines(recipe))
        if of_all is not None:
            yield from of_all
            return
        for layers, names in self._groups(recipe):
            most = min(ceiling, self._restricted(layers).importance.full_gain)
            if able is not None and layers not in able:
                continue
            for way in self._of_group(recipe, layers, names):
                if most < greatest * (1 - TIE):
                    break
                found = self._found(way, most, Aim(self._below(greatest), aim.enough))
                greatest = max(greatest, found.gain)
                yield found

    def _below(self, gain: float) -> float:
        """A gain so little below that plans which gain as much are still looked for."""
        everything = self.problem.importance.full_gain
        return gain - BELOW * everything if everything else -1.0

    def _of_all(
        self, recipe: Recipe, aim: Aim, ways: Sequence[Way] | None
    ) -> tuple[list[Found] | None, float]:
        """The best plan of all ways, of which these are outlines; and the greatest gain of any.

        None where it is not proven, or no way is found that it keeps to: an outline may leave more
        than its way does. One plan, or none.
        """
        if ways is None or not hasattr(self.solver, "aim"):
            return None, self.ceiling
        if not ways:
            return [], self.ceiling
        self._count()
        solution = self._solve(by_first_opened(self._restricted(ways[0].layers), ways), aim)
        if solution.status is Status.INFEASIBLE:
            return [], self.ceiling
        bound = self.ceiling if solution.bound is None else min(self.ceiling, solution.bound)
        gain = solution.objective
        if solution.plan is None or gain is None:
            return None, bound
        if solution.status is Status.OPTIMAL or gain >= aim.enough:
            way = self.keeping(recipe, solution.plan)
            if way is not None:
                return [Found(way, solution, max(bound, gain), of_all=True)], bound
        return None, bound

    def _count(self) -> None:
        self.solved += 1
        self.report("solving: channels and recipe together", self.solved, 0)

    def _found(self, way: Way, most: float, aim: Aim) -> Found:
        self._count()
        problem = self._restricted(way.layers)
        solution = self._solve(problem.within(way.budget), aim)
        sure = self._is_priced(way)
        bound = min(most, solution.bound) if sure and solution.bound is not None else most
        if sure and (solution.plan is None or self._holds(way, solution.plan)):
            none = solution.status is Status.INFEASIBLE and solution.bound is None
            return Found(way, solution, -1.0 if none else bound)
        behind = self._behind(way, aim)
        if behind.bound is not None:
            bound = min(bound, behind.bound)
        # A plan whose step from the image on leaves room for what lies beside it is safe.
        tight = solution if way.tight == way.budget else self._solve(problem.within(way.tight), aim)
        able = [one for one in (behind, solution, tight) if self._is_allowed(way, one.plan)]
        best = max(able, key=lambda one: one.objective or 0.0, default=None)
        if best is None:
            best = replace(solution, plan=None, cost=None, objective=None)
        return Found(way, best, bound)

    def _behind(self, way: Way, aim: Aim) -> Solution:
        """The best plan by what is done in every iteration, which begins at the cut of the way.

        That is all there is to the budgets of the whole and to the room in RAM; those of a step,
        which are of one from the image on, may be broken, so that its gain is a bound.
        """
        assert way.recipe.cut is not None
        before, asked = self.problem, self.asked
        graph = between(before.graph, way.recipe.cut)
        left = {call.name for call in graph.calls} - {graph.input}
        again = tuple(name for name in before.step.recompute if name in left)
        step = replace(before.step, recompute=again)
        target = asked.device.target(asked.target)
        room = None
        if way.recipe.cache_in == "ram":
            room = max(0, asked.room_bytes - asked.lasting_bytes(way.recipe))
        problem = Problem(
            graph,
            step,
            self._restricted(way.layers).importance,
            Budget(working_bytes=room, macs=way.budget.macs),
            with_bias=before.with_bias,
            timer=target.at(step.bits),
            compute_w=before.compute_w,
            seed=before.seed,
        )
        latency_s = way.budget.latency_s
        if latency_s is not None:
            latency_s = max(0.0, latency_s - self._idle_s + _idle_s(problem))
        return self._solve(problem.within(replace(problem.budget, latency_s=latency_s)), aim)

    def _is_allowed(self, way: Way, plan: UpdatePlan | None) -> bool:
        """Whether a plan is within the budgets of a step, those of the whole, and the room."""
        if plan is None or not self._trains_behind(way, plan) or self.problem.exceeded(plan):
            return False
        asked = replace(self.asked, plan=plan)
        cost = asked.cost(way.recipe)
        return not asked.exceeded(cost) and asked.has_room(cost, way.recipe.cache_in)

    def told(self, found: Solution) -> Solution:
        """What was found, priced and checked; or why there is nothing, and what would do."""
        known = KnownAnswer(
            found.solver, Answer(found.plan, found.status, found.bound, found.reason)
        )
        asked = self.asked
        told = solve(self.problem, known, device=asked.device, target=asked.target)
        return replace(told, seconds=found.seconds)

    def _solve(self, problem: Problem, aim: Aim = ANY_GAIN) -> Solution:
        """An answer that is not priced: of many, one is kept."""
        started = time.perf_counter()
        answer = ask(problem, aiming(self.solver, aim))
        if answer.reason == INTERRUPTED:
            raise KeyboardInterrupt  # one Ctrl-C ends all questions
        seconds = time.perf_counter() - started
        self.seconds += seconds
        gain = None if answer.plan is None else problem.gain(answer.plan)
        return Solution(
            self.solver.name, answer.plan, None, answer.status, gain, answer.bound, seconds,
            answer.reason,
        )  # fmt: skip

    def may_keep(self, recipe: Recipe, plan: UpdatePlan) -> bool:
        """Whether `plan` may be within the budgets of the whole: told without compiling it.

        Not told of one that trains nothing, or what nobody asked about.
        """
        outlines, trained = self._outlines(recipe), updated_layers(plan)
        if outlines is None or not trained or not trained <= self._last_cuts.keys():
            return True
        return bool(self._able(outlines, plan))

    def keeping(self, recipe: Recipe, plan: UpdatePlan) -> Way | None:
        """A way of the recipe that `plan` keeps to."""
        outlines, trained = self._outlines(recipe), updated_layers(plan)
        ways: Iterable[Way | None]
        if outlines is None:
            groups = self._groups(recipe)
            able = (group for group in groups if trained <= group[0])
            ways = chain.from_iterable(self._of_group(recipe, *group) for group in able)
        else:
            ways = (self._exactly(way) for way in self._able(outlines, plan))
        for way in ways:
            if way is None or self.problem.within(way.budget).exceeded(plan):
                continue
            if self._holds(way, plan):
                return way
        return None

    def _able(self, outlines: Iterable[Way], plan: UpdatePlan) -> list[Way]:
        """The outlines that `plan` is within, those that leave most seconds first."""
        trained, costs = updated_layers(plan), self.problem.table.price_plan(plan)
        assert costs.step_s is not None
        step_s, macs = float(costs.step_s[0]), int(costs.backward_macs[0])
        found = [
            (inf if (limit_s := way.budget.latency_s) is None else limit_s, way)
            for way in outlines
            if trained <= way.layers and (way.budget.macs is None or macs <= way.budget.macs)
        ]
        able = [one for one in found if step_s <= one[0] * (1 + SURE)]
        return [way for _, way in sorted(able, key=lambda one: -one[0])]

    def _exactly(self, outline: Way) -> Way | None:
        """The way of an outline."""
        recipe = outline.recipe
        return self._left(recipe, outline.layers, self.asked.forward_cost(recipe))

    def _is_priced(self, way: Way) -> bool:
        """Whether the table says what updates add to a step.

        What is computed again may begin at the cut: then they add less.
        """
        return way.recipe.cut is None or not recomputes(self.problem.step)

    def _holds(self, way: Way, plan: UpdatePlan) -> bool:
        """Whether the whole is within its budgets by a plan that is within the way's."""
        if self._is_priced(way) and way.recipe.cache_in != "ram":
            return self._trains_behind(way, plan)
        return self._is_allowed(way, plan)

    def _trains_behind(self, way: Way, plan: UpdatePlan) -> bool:
        """Whether a plan trains nothing before the cut; some solvers look at no scored layer."""
        cut = way.recipe.cut
        return cut is None or cut in frozen_cuts(self.problem.graph, updated_layers(plan))

    def _restricted(self, layers: frozenset[str]) -> Problem:
        """The choice among these layers alone."""
        if layers not in self._by_layers:
            self._by_layers[layers] = self.problem.among(layers)
        return self._by_layers[layers]

    # Ways.

    def _groups(self, recipe: Recipe) -> Iterator[tuple[frozenset[str], tuple[str | None, ...]]]:
        """Sets of layers, those that contain others first, and the cuts before each of them.

        At last all layers with None for no cut: that leaves most to compute in every iteration.
        """
        if not recipe.augment or recipe.copies:
            yield from self._cuts.items()
        yield frozenset(self._last_cuts), (None,)

    @cached_property
    def _cuts(self) -> Mapping[frozenset[str], tuple[str, ...]]:
        """Cuts, from the last on, by the layers behind them that can be chosen, most first."""
        order = cuts(self.problem.graph)
        found: dict[frozenset[str], tuple[str, ...]] = {}
        for number in range(len(order) - 1, 0, -1):
            layers = frozenset(name for name, last in self._last_cuts.items() if last >= number)
            if layers:
                found[layers] = (*found.get(layers, ()), order[number])
        return dict(reversed(found.items()))

    def _outlines(self, recipe: Recipe) -> tuple[Way, ...] | None:
        """Ways with at least the budgets that they leave, those that train most first.

        Told of the whole network's forward pass, but for what is kept in RAM, where room decides.
        None where that is not told: the whole has no room, or updates add less behind a cut.
        """
        if recipe not in self._by_recipe:
            plain = self.asked.forward_cost(replace(recipe, cut=None, cache_in="nothing"))
            told = plain.latency_s is not None and not recomputes(self.problem.step)
            found = self._outlined(recipe, plain) if told else ()
            most_first = tuple(sorted(found, key=lambda way: -len(way.layers)))
            self._by_recipe[recipe] = most_first if told else None
        return self._by_recipe[recipe]

    def _outlined(self, recipe: Recipe, plain: AdaptationCost) -> Iterator[Way]:
        """See `_outlines`; of cuts before the same layers until no earlier one takes less."""
        least = LeastUsage(self.asked, recipe, plain)
        for layers, names in self._groups(recipe):
            fastest_s = inf
            for cut in names:
                if cut is not None and least.computing_s(cut) >= fastest_s:
                    break
                for cache_in in self._places(cut):
                    way = replace(recipe, cut=cut, cache_in=cache_in)
                    usage = self._usage(way, least)
                    budget = None if usage is None else self._budget(way, usage)
                    if usage is None or budget is None:
                        continue
                    assert usage["latency_s"] is not None
                    fastest_s = min(fastest_s, usage["latency_s"])
                    yield Way(way, layers, budget, budget)

    def _usage(self, way: Recipe, least: LeastUsage) -> Mapping[str, float | None] | None:
        """At least what a way takes without updates; None where it has no room."""
        if way.cut is None:
            return least.plain.usage
        if not least.may_have_room(way.cut, way.cache_in):
            return None
        if way.cache_in == "storage":
            usage = least.in_storage(way.cut)
            return None if "storage_bytes" in self.asked.task_budget.exceeded(usage) else usage
        cost = self.asked.forward_cost(way)
        return cost.usage if self._has_room(way, cost) else None

    def _places(self, cut: str | None) -> list[CacheIn]:
        """Where the values at a cut may be kept."""
        if cut is None:
            return ["nothing"]
        return [c for c in self.caches if c != "nothing" and self.asked.has_place(c)]

    def _has_room(self, way: Recipe, cost: AdaptationCost) -> bool:
        """Whether a way of such a cost without updates has room for all that it keeps."""
        if cost.latency_s is None or "storage_bytes" in self.asked.exceeded(cost):
            return False
        return self.asked.has_room(cost, way.cache_in)

    def _of_group(
        self, recipe: Recipe, layers: frozenset[str], names: tuple[str | None, ...]
    ) -> Iterator[Way]:
        """Ways that train among the same layers.

        Those are left out that leave no more than one at a later cut: an earlier cut leaves more to
        compute, so that after one whose computing alone takes as long as a way before, none does.
        """
        seen: list[Way] = []
        fastest = inf
        for cut in names:
            computing = inf
            for cache_in in self._places(cut):
                way = replace(recipe, cut=cut, cache_in=cache_in)
                cost = self.asked.forward_cost(way)
                computing = min(computing, sum(phase.compute_s.value for phase in cost.phases))
                left = self._left(way, layers, cost)
                if left is None:
                    continue
                assert cost.latency_s is not None
                fastest = min(fastest, cost.latency_s.value)
                if not any(_leaves_as_much(other, left) for other in seen):
                    seen.append(left)
                    yield left
            if computing >= fastest:
                return

    def _left(self, recipe: Recipe, layers: frozenset[str], cost: AdaptationCost) -> Way | None:
        """What a recipe of such a cost without updates leaves for a step; None: nothing."""
        if not self._has_room(recipe, cost):
            return None
        budget = self._budget(recipe, cost.usage)
        if budget is None:
            return None
        if recipe.cache_in != "ram":
            return Way(recipe, layers, budget, budget)
        room = self.asked.room_bytes - self.asked.lasting_bytes(recipe)
        tight = replace(budget, working_bytes=min(room, budget.working_bytes or room))
        return Way(recipe, layers, budget, tight)

    def _budget(self, recipe: Recipe, forward: Mapping[str, float | None]) -> Budget | None:
        """The budgets of a step with which the whole is within its own.

        `forward` is what all takes but what updates add to each step, of which there are so many.
        """
        task, own = self.asked.task_budget, self.problem.budget
        forward_s, forward_j, macs_taken = (
            forward[name] for name in ("latency_s", "energy_j", "macs")
        )
        assert forward_s is not None
        assert forward_j is not None
        assert macs_taken is not None
        steps = recipe.steps(self.asked.task.samples, self.problem.step.batch)
        left_s = []
        if task.latency_s is not None:
            left_s.append((task.latency_s - forward_s) / steps)
        if task.energy_j is not None:
            assert self.problem.compute_w is not None
            left_j = (task.energy_j - forward_j) / steps
            left_s.append(left_j / self.problem.compute_w)
        limits = [] if own.latency_s is None else [own.latency_s]
        if left_s:
            if min(left_s) < 0:
                return None
            limits.append(self._idle_s + min(left_s))
        macs = own.macs
        if task.macs is not None:
            if (left := task.macs - int(macs_taken)) < 0:
                return None
            macs = left // steps if macs is None else min(macs, left // steps)
        return replace(own, latency_s=min(limits, default=None), macs=macs)

    @cached_property
    def _idle_s(self) -> float:
        return _idle_s(self.problem)

    @cached_property
    def _last_cuts(self) -> Mapping[str, int]:
        """Of each layer that can be chosen, the last cut before which it is not computed."""
        graph = self.problem.graph
        order = {name: number for number, name in enumerate(cuts(graph))}
        layers = dict.fromkeys(one.layer for one in self.problem.candidates)
        return {layer: order[last_frozen_cut(graph, (layer,))] for layer in layers}

    # What is said.

    def nothing(self, recipe: Recipe, alone: Solution) -> Solution:
        """That there is no plan by any recipe, of which this is the most sparing.

        `alone` is the plan without budgets of the whole.
        """
        return replace(
            alone,
            plan=None,
            cost=None,
            status=Status.INFEASIBLE,
            objective=None,
            bound=None,
            reason=self._too_little(recipe),
        )

    def _too_little(self, recipe: Recipe) -> str:
        """Which budgets of the whole are too little, and what would do, by the cheapest plans."""
        budget = self.asked.task_budget
        free = replace(self.asked, task_budget=TaskBudget(storage_bytes=budget.storage_bytes))
        single = np.eye(len(self.problem.candidates), dtype=np.int64)
        used = [
            choose_cache(replace(free, plan=self.problem.plan(row)), recipe, self.caches).cost.usage
            for row in single[self.problem.fits(single)]
        ]
        if all(one["latency_s"] is None for one in used):
            return (
                f"the whole adaptation has no room on {self.asked.device.name}, whatever its "
                "budgets: fewer or smaller images would do (--ways, --shots, --resolution), or no "
                "budget of the task"
            )
        limits = {name: limit for name, limit in budget.to_json().items() if limit is not None}
        told = []
        for name, limit in limits.items():
            others = replace(budget, **{name: None})
            taken = [one[name] for one in used if not others.exceeded(one)]
            known = [amount for amount in taken if amount is not None]
            if known:
                told.append(
                    f"{described(name, limit)} is too little, {enough(name, min(known))} would do"
                )
        if not told:
            words = [described(name, limit) for name, limit in limits.items()]
            told = [f"{' and '.join(words)} are too little together"]
        return f"no channel of any inspected layer fits by any recipe: {'; '.join(told)}"


def by_first_opened(problem: Problem, ways: Sequence[Way]) -> Problem:
    """The choice by any of these ways at once, of which those that train most come first.

    Where the network can be cut is decided by the layer that is opened first, so that what an
    earlier cut leaves less of a budget is a charge for opening a layer that comes before the later
    one. Of each budget the way counts that leaves most of it: where that is one way for all of
    them, this is the choice, and else it is no less.
    """
    most: dict[frozenset[str], Budget] = {}
    leaving = ways[0].budget
    for way in ways:
        leaving = most[way.layers] = _most_of_each(leaving, way.budget)
    charges = [
        Charge(
            frozenset(atom for atom in problem.table.atoms if atom[1] in ways[0].layers - fewer),
            (more.latency_s or 0.0) - (less.latency_s or 0.0),
            (more.macs or 0) - (less.macs or 0),
        )
        for (_, less), (fewer, more) in pairwise(most.items())
    ]
    return problem.charged(charges).within(leaving)


def _most_of_each(one: Budget, other: Budget) -> Budget:
    """The budgets of a step of which one leaves most; either limits the same things."""
    latency_s, macs = other.latency_s, other.macs
    if one.latency_s is not None and latency_s is not None:
        latency_s = max(one.latency_s, latency_s)
    if one.macs is not None and macs is not None:
        macs = max(one.macs, macs)
    return replace(other, latency_s=latency_s, macs=macs)


def _idle_s(problem: Problem) -> float:
    """Seconds of a step that updates nothing."""
    nothing = np.zeros((1, len(problem.table.atoms)), dtype=np.int64)
    step_s = problem.table.price(nothing).step_s
    assert step_s is not None
    return float(step_s[0])


def _leaves_as_much(one: Way, other: Way) -> bool:
    """Whether `one` leaves at least as much of every budget as `other`, kept in the same place."""
    if one.recipe.cache_in != other.recipe.cache_in:
        return False
    pairs = (
        (getattr(a, name), getattr(b, name))
        for a, b in ((one.budget, other.budget), (one.tight, other.tight))
        for name in ("latency_s", "macs", "working_bytes")
    )
    return all(mine is None or (theirs is not None and mine >= theirs) for mine, theirs in pairs)
