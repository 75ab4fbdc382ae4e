"""The best plan of each way of adapting, by any solver of steps.

Budgets of the whole are, for each way (`ways_of_adapting`), budgets of a step: so whatever chooses
channels for a step chooses them for an adaptation too, among the layers behind the cut. Of many
ways few are asked about: all at once where a solver proves its answer (`ways_at_once`), and else
those alone that may still gain more than what was found.
"""

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf

from costsim.base.progress import Progress
from costsim.ir.cuts import between, updated_layers
from costsim.ir.plan import UpdatePlan
from costsim.ir.program.adaptation import frozen_cuts
from costsim.ir.recipe import Recipe
from costsim.planning.recipes import recomputes
from costsim.planning.ways_at_once import by_first_opened
from costsim.planning.ways_of_adapting import Way, Ways, idle_seconds
from costsim.problem.budget import Budget
from costsim.problem.problem import Problem
from costsim.problem.solution import ANY_GAIN, Aim, Answer, Solution, Solver, Status, aiming
from costsim.solving.arena_budget import INTERRUPTED
from costsim.solving.pareto import TIE
from costsim.solving.solve import KnownAnswer, ask, solve

BELOW = 1.5 * TIE
"""How far below a gain plans are still looked for that gain as much, as a share of all gains."""


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
    """Over the ways by steps of one kind: the best plan of each."""

    def __init__(self, ways: Ways, solver: Solver, report: Progress) -> None:
        self.ways, self.solver, self.report = ways, solver, report
        self.problem, self.asked = ways.problem, ways.asked
        self._by_layers: dict[frozenset[str], Problem] = {}
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
        of_all, ceiling = self._of_all(recipe, aim, self.ways.outlines(recipe))
        if of_all is not None:
            yield from of_all
            return
        for layers, names in self.ways.groups(recipe):
            most = min(ceiling, self._restricted(layers).importance.full_gain)
            if able is not None and layers not in able:
                continue
            for way in self.ways.of_group(recipe, layers, names):
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
            latency_s = max(0.0, latency_s - self.ways.idle_s + idle_seconds(problem))
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

    def keeping(self, recipe: Recipe, plan: UpdatePlan) -> Way | None:
        """A way of the recipe that `plan` keeps to."""
        for way in self.ways.holding(recipe, plan):
            if not self.problem.within(way.budget).exceeded(plan) and self._holds(way, plan):
                return way
        return None

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
