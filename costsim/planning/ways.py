"""The ways of adapting by one recipe, and the best plan of each.

What a whole adaptation costs is affine in what a step of its plan costs: every phase but training
does the same whatever is trained, and training is so many steps. So for each way of adapting (a
recipe, where it cuts the network, and where it keeps the values at the cut) the budgets of the
whole are budgets of a step, and the best plan of that way is found by any solver of steps, among
the layers behind the cut.
"""

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from costsim.base.progress import Progress
from costsim.ir.cuts import cuts, last_frozen_cut
from costsim.ir.plan import UpdatePlan
from costsim.ir.recipe import CacheIn, Recipe
from costsim.planning.recipes import Asked, choose_cache, recomputes
from costsim.pricing.adaptation import AdaptationCost
from costsim.problem.budget import Budget
from costsim.problem.problem import Problem
from costsim.problem.solution import Solution, Solver, Status
from costsim.problem.task_budget import TaskBudget, described, enough
from costsim.solving.arena_budget import INTERRUPTED
from costsim.solving.pareto import TIE
from costsim.solving.solve import ask, solve


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
    """The best plan of one way, and the greatest gain that the way can have at all."""

    way: Way
    solution: Solution
    bound: float

    @property
    def gain(self) -> float:
        """Of the plan; less than any where there is none."""
        return -1.0 if self.solution.objective is None else self.solution.objective


class SideSearch:
    """Over the ways of one recipe: the best plan of each.

    `alone` is the best plan without budgets of the whole: no way gains more.
    """

    def __init__(
        self, side: Side, caches: tuple[CacheIn, ...], solver: Solver, report: Progress
    ) -> None:
        self.side, self.caches, self.solver, self.report = side, caches, solver, report
        self.problem, self.asked = side.problem, side.asked
        self._by_layers: dict[frozenset[str], Problem] = {}
        self.alone = self.priced(solver)
        self.seconds = self.alone.seconds
        self.ceiling = float("inf") if self.alone.bound is None else self.alone.bound
        self.solved = 0

    def best(
        self, recipe: Recipe, able: Collection[frozenset[str]] | None = None, floor: float = -1.0
    ) -> Iterator[Found]:
        """The best plan of each way that may gain more than `floor` and what was found so far.

        `able`: of ways that train among one of these sets of layers alone.
        """
        greatest = floor
        for way in self._ways(recipe, able):
            most = min(self.ceiling, self._restricted(way.layers).importance.full_gain)
            if most < greatest * (1 - TIE):
                continue
            found = self._found(way, most)
            greatest = max(greatest, found.gain)
            yield found

    def _found(self, way: Way, most: float) -> Found:
        self.solved += 1
        self.report("solving: channels and recipe together", self.solved, 0)
        problem = self._restricted(way.layers)
        solution = self._solve(problem.within(way.budget))
        # What is computed again may begin at the cut: then updates add less than the table says.
        sure = not (way.recipe.cut is not None and recomputes(self.problem.step))
        bound = min(most, solution.bound) if sure and solution.bound is not None else most
        if solution.plan is None:
            proven = sure and solution.status is Status.INFEASIBLE
            return Found(way, solution, -1.0 if proven else bound)
        if not self._holds(way, solution.plan):
            # What lies beside a step has no room: a plan whose step leaves it is safe.
            solution = self._solve(problem.within(way.tight))
            if solution.plan is not None and not self._holds(way, solution.plan):
                solution = replace(solution, plan=None, cost=None, objective=None)
        return Found(way, solution, bound)

    def priced(self, solver: Solver) -> Solution:
        """The answer of a solver to the whole choice, priced again and checked."""
        asked = self.asked
        return solve(self.problem, solver, device=asked.device, target=asked.target)

    def _solve(self, problem: Problem) -> Solution:
        """An answer that is not priced: of many, one is kept."""
        started = time.perf_counter()
        answer = ask(problem, self.solver)
        if answer.reason == INTERRUPTED:
            raise KeyboardInterrupt  # one Ctrl-C ends all questions
        seconds = time.perf_counter() - started
        self.seconds += seconds
        gain = None if answer.plan is None else problem.gain(answer.plan)
        return Solution(
            self.solver.name, answer.plan, None, answer.status, gain, answer.bound, seconds,
            answer.reason,
        )  # fmt: skip

    def _holds(self, way: Way, plan: UpdatePlan) -> bool:
        asked = replace(self.asked, plan=plan)
        cost = asked.cost(way.recipe)
        return not asked.exceeded(cost) and asked.has_room(cost, way.recipe.cache_in)

    def _restricted(self, layers: frozenset[str]) -> Problem:
        """The choice among these layers alone."""
        if layers not in self._by_layers:
            self._by_layers[layers] = self._among(layers)
        return self._by_layers[layers]

    def _among(self, layers: frozenset[str]) -> Problem:
        importance = self.problem.importance
        channels = tuple(entry for entry in importance.channels if entry.layer in layers)
        if len(channels) == len(importance.channels):
            return self.problem
        return self.problem.rescored(replace(importance, channels=channels))

    # Ways.

    def _ways(self, recipe: Recipe, able: Collection[frozenset[str]] | None) -> Iterator[Way]:
        """Without a cut, and cut at each value before what can be chosen, from the last on."""
        everything = frozenset(self._last_cuts)
        if able is None or everything in able:
            yield from self._of_group(recipe, everything, (None,))
        if recipe.augment and not recipe.copies:
            return
        for layers, names in self._groups.items():
            if able is None or layers in able:
                yield from self._of_group(recipe, layers, names)

    @cached_property
    def _groups(self) -> Mapping[frozenset[str], tuple[str, ...]]:
        """Cuts, from the last on, by the layers behind them that can be chosen."""
        order = cuts(self.problem.graph)
        found: dict[frozenset[str], tuple[str, ...]] = {}
        for number in range(len(order) - 1, 0, -1):
            layers = frozenset(name for name, last in self._last_cuts.items() if last >= number)
            if layers:
                found[layers] = (*found.get(layers, ()), order[number])
        return found

    def _of_group(
        self, recipe: Recipe, layers: frozenset[str], names: tuple[str | None, ...]
    ) -> Iterator[Way]:
        """Ways that train among the same layers.

        Those are left out that leave no more than one at a later cut: an earlier cut leaves more to
        compute, so that after one whose computing alone takes as long as a way before, none does.
        """
        nowhere: list[CacheIn] = ["nothing"]
        places = [c for c in self.caches if c != "nothing" and self.asked.has_place(c)]
        seen: list[Way] = []
        fastest = float("inf")
        for cut in names:
            computing = float("inf")
            for cache_in in nowhere if cut is None else places:
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
        if cost.latency_s is None or "storage_bytes" in self.asked.exceeded(cost):
            return None
        if not self.asked.has_room(cost, recipe.cache_in):
            return None
        budget = self._budget(recipe, cost)
        if budget is None:
            return None
        if recipe.cache_in != "ram":
            return Way(recipe, layers, budget, budget)
        room = self.asked.room_bytes - self.asked.lasting_bytes(recipe)
        tight = replace(budget, working_bytes=min(room, budget.working_bytes or room))
        return Way(recipe, layers, budget, tight)

    def _budget(self, recipe: Recipe, forward: AdaptationCost) -> Budget | None:
        """The budgets of a step with which the whole is within its own.

        `forward` is the cost of all but what updates add to each step, of which there are so many.
        """
        task, own = self.asked.task_budget, self.problem.budget
        assert forward.latency_s is not None
        assert forward.energy_j is not None
        steps = recipe.steps(self.asked.task.samples, self.problem.step.batch)
        left_s = []
        if task.latency_s is not None:
            left_s.append((task.latency_s - forward.latency_s.value) / steps)
        if task.energy_j is not None:
            assert self.problem.compute_w is not None
            left_j = (task.energy_j - forward.energy_j.value) / steps
            left_s.append(left_j / self.problem.compute_w)
        limits = [] if own.latency_s is None else [own.latency_s]
        if left_s:
            if min(left_s) < 0:
                return None
            limits.append(self._idle_s + min(left_s))
        macs = own.macs
        if task.macs is not None:
            if (left := task.macs - forward.macs) < 0:
                return None
            macs = left // steps if macs is None else min(macs, left // steps)
        return replace(own, latency_s=min(limits, default=None), macs=macs)

    @cached_property
    def _idle_s(self) -> float:
        """Seconds of a step that updates nothing."""
        nothing = np.zeros((1, len(self.problem.table.atoms)), dtype=np.int64)
        step_s = self.problem.table.price(nothing).step_s
        assert step_s is not None
        return float(step_s[0])

    @cached_property
    def _last_cuts(self) -> Mapping[str, int]:
        """Of each layer that can be chosen, the last cut before which it is not computed."""
        graph = self.problem.graph
        order = {name: number for number, name in enumerate(cuts(graph))}
        layers = dict.fromkeys(one.layer for one in self.problem.candidates)
        return {layer: order[last_frozen_cut(graph, (layer,))] for layer in layers}

    # What is said.

    def judged(self, solution: Solution, bound: float, *, stopped: bool) -> Solution:
        """With the status of the whole search, of which nothing gains more than `bound`."""
        assert solution.objective is not None
        if self.alone.bound is None:
            return replace(solution, status=Status.FEASIBLE, bound=None)
        bound = max(bound, solution.objective)
        if bound <= solution.objective * (1 + TIE):
            return replace(solution, status=Status.OPTIMAL, bound=solution.objective)
        status = Status.TIME_LIMIT if stopped else Status.FEASIBLE
        return replace(solution, status=status, bound=bound)

    def nothing(self, recipe: Recipe) -> Solution:
        """That there is no plan by any recipe, of which this is the most sparing."""
        return replace(
            self.alone,
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
