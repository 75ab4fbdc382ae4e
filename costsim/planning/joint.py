"""Channels and recipe chosen together, within the budgets of a step and of the whole adaptation.

What a whole adaptation costs is affine in what a step of its plan costs: every phase but training
does the same whatever is trained, and training is so many steps. So for each way of adapting (a
recipe, where it cuts the network, and where it keeps the values at the cut) the budgets of the
whole are budgets of a step, and the best plan of that way is found by any solver of steps, among
the layers behind the cut. The greatest gain over all ways is the answer, and proven where each was
answered with a proof or cannot reach it.

Ways that change no result are all compared. A recipe that spares work (see `Freedom`) is taken
only where it leaves a greater gain, and then the one that spares least of those that leave it.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np

from costsim.base.progress import Progress, silent
from costsim.ir.cuts import cuts, last_frozen_cut
from costsim.ir.plan import UpdatePlan
from costsim.ir.recipe import CacheIn, Recipe
from costsim.planning.freedom import Freedom
from costsim.planning.recipes import Asked, PricedRecipe, choose_cache, recomputes
from costsim.pricing.adaptation import AdaptationCost
from costsim.problem.budget import Budget
from costsim.problem.problem import Problem
from costsim.problem.solution import Answer, Solution, Solver, Status
from costsim.problem.task_budget import TaskBudget, described, enough
from costsim.solving.arena_budget import INTERRUPTED
from costsim.solving.pareto import TIE
from costsim.solving.solve import KnownAnswer, ask, solve


@dataclass(frozen=True)
class JointQuestion:
    """What is asked: a choice of channels, and of the recipe that a person's `recipe` begins from.

    `sides` gives the choice of channels, and all else that prices an adaptation, by recipes that
    show each image in every so many iterations: steps over fewer images are other steps. `caches`
    says where values may be kept.
    """

    sides: Callable[[int], "Side"]
    recipe: Recipe
    freedom: Freedom
    caches: tuple[CacheIn, ...]


@dataclass(frozen=True)
class Side:
    """Steps of one kind: the choice of channels for them, and what prices an adaptation by them.

    The plan of `asked` is left aside.
    """

    problem: Problem
    asked: Asked


@dataclass(frozen=True)
class JointAnswer:
    """The plan, of `problem`, and the recipe with its price; None where there is no plan."""

    problem: Problem
    solution: Solution
    priced: PricedRecipe | None


def choose_jointly(
    question: JointQuestion, solver: Solver, progress: Progress | None = None
) -> JointAnswer:
    """The greatest gain within all budgets, by the recipe that spares least of those reaching it.

    Its status is that of the whole search: optimal where every way was answered with a proof.
    Raises `InputError` as `choose_cache` does.
    """
    report = progress or silent
    side = question.sides(question.recipe.image_interval)
    report(f"solving: {solver.name}", 0, 0)
    search = _SideSearch(side, question.caches, solver, report)
    alone = search.alone
    if alone.plan is None:
        return JointAnswer(side.problem, alone, None)
    report("pricing the whole adaptation", 0, 0)
    priced = choose_cache(replace(side.asked, plan=alone.plan), question.recipe, question.caches)
    if not side.asked.exceeded(priced.cost):
        return JointAnswer(side.problem, alone, priced)
    if alone.reason == INTERRUPTED:  # what there is so far is not within the budgets
        raise KeyboardInterrupt
    return _Search(question, solver, report, {question.recipe.image_interval: search}).answer()


@dataclass(frozen=True)
class _Way:
    """One way of adapting: what may be trained by it, and the budgets of a step that it leaves.

    `tight`: with what lies in RAM beside a step taken off.
    """

    recipe: Recipe
    layers: frozenset[str]
    budget: Budget
    tight: Budget


@dataclass(frozen=True)
class _Found:
    """The best plan of one way, and the greatest gain that the way can have at all."""

    way: _Way
    solution: Solution
    bound: float

    @property
    def gain(self) -> float:
        """Of the plan; less than any where there is none."""
        return -1.0 if self.solution.objective is None else self.solution.objective


class _Search:
    """Over recipes: which leave the greatest gain, and which of these spares least."""

    def __init__(
        self,
        question: JointQuestion,
        solver: Solver,
        report: Progress,
        searches: dict[int, "_SideSearch"],
    ) -> None:
        self.question, self.solver, self.report = question, solver, report
        self.searches = searches

    def of(self, recipe: Recipe) -> "_SideSearch":
        """The search among steps as the recipe does them."""
        interval = recipe.image_interval
        if interval not in self.searches:
            side = self.question.sides(interval)
            self.searches[interval] = _SideSearch(
                side, self.question.caches, self.solver, self.report
            )
        return self.searches[interval]

    def answer(self) -> JointAnswer:
        """See `choose_jointly`."""
        most = self.question.freedom.most_sparing(self.question.recipe)
        search = self.of(most)
        tried = list(search.best(most))
        best = max(tried, key=lambda found: found.gain, default=None)
        if best is None or best.solution.plan is None:
            return JointAnswer(search.side.problem, search.nothing(most), None)
        bound = max(found.bound for found in tried)
        able = {found.way.layers for found in tried if found.bound >= best.gain * (1 - TIE)}
        found = self._least_sparing(best, able)
        recipe = replace(found.way.recipe, cut=None, cache_in="nothing")
        side = self.of(recipe).side
        stopped = any(one.solution.status is Status.TIME_LIMIT for one in tried)
        solution = search.judged(found.solution, bound, stopped=stopped)
        known = Answer(solution.plan, solution.status, solution.bound, solution.reason)
        priced_again = self.of(recipe).priced(KnownAnswer(solution.solver, known))
        seconds = sum(one.seconds for one in self.searches.values())
        solution = replace(priced_again, seconds=seconds)
        assert solution.plan is not None
        priced = choose_cache(replace(side.asked, plan=solution.plan), recipe, self.question.caches)
        return JointAnswer(side.problem, solution, priced)

    def _least_sparing(self, best: _Found, able: set[frozenset[str]]) -> _Found:
        """Of the recipes that reach the gain of `best`, the first by preference.

        Only ways that reach it with all that may be spared can reach it with less spared.
        """

        assert best.solution.plan is not None
        plan = best.solution.plan

        @cache
        def reaching(recipe: Recipe) -> _Found | None:
            asked = replace(self.of(recipe).asked, plan=plan)
            priced = choose_cache(asked, recipe, self.question.caches)
            if not asked.exceeded(priced.cost) and self.of(recipe).problem.exceeded(plan) == {}:
                return replace(best, way=replace(best.way, recipe=priced.recipe))
            tried = self.of(recipe).best(recipe, able, best.gain)
            return next((found for found in tried if found.gain >= best.gain * (1 - TIE)), None)

        for rows in self.question.freedom.by_preference(self.question.recipe):
            if reaching(rows[-1][-1]) is None:
                continue  # not with the fewest copies, so with no more of them either
            row = rows[_first([row[-1] for row in rows], lambda one: reaching(one) is not None)]
            found = reaching(row[_first(row, lambda one: reaching(one) is not None)])
            assert found is not None
            return found
        return best


def _first(ordered: Sequence[Recipe], does: Callable[[Recipe], bool]) -> int:
    """The index of the first that does, where the last does and all after one that does."""
    return bisect_left(range(len(ordered) - 1), True, key=lambda index: does(ordered[index]))


class _SideSearch:
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
    ) -> Iterator[_Found]:
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

    def _found(self, way: _Way, most: float) -> _Found:
        self.solved += 1
        self.report("solving: channels and recipe together", self.solved, 0)
        problem = self._restricted(way.layers)
        solution = self._solve(problem.within(way.budget))
        # What is computed again may begin at the cut: then updates add less than the table says.
        sure = not (way.recipe.cut is not None and recomputes(self.problem.step))
        bound = min(most, solution.bound) if sure and solution.bound is not None else most
        if solution.plan is None:
            proven = sure and solution.status is Status.INFEASIBLE
            return _Found(way, solution, -1.0 if proven else bound)
        if not self._holds(way, solution.plan):
            # What lies beside a step has no room: a plan whose step leaves it is safe.
            solution = self._solve(problem.within(way.tight))
            if solution.plan is not None and not self._holds(way, solution.plan):
                solution = replace(solution, plan=None, cost=None, objective=None)
        return _Found(way, solution, bound)

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

    def _holds(self, way: _Way, plan: UpdatePlan) -> bool:
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

    def _ways(self, recipe: Recipe, able: Collection[frozenset[str]] | None) -> Iterator[_Way]:
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
    ) -> Iterator[_Way]:
        """Ways that train among the same layers.

        Those are left out that leave no more than one at a later cut: an earlier cut leaves more to
        compute, so that after one whose computing alone takes as long as a way before, none does.
        """
        nowhere: list[CacheIn] = ["nothing"]
        places = [c for c in self.caches if c != "nothing" and self.asked.has_place(c)]
        seen: list[_Way] = []
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

    def _left(self, recipe: Recipe, layers: frozenset[str], cost: AdaptationCost) -> _Way | None:
        """What a recipe of such a cost without updates leaves for a step; None: nothing."""
        if cost.latency_s is None or "storage_bytes" in self.asked.exceeded(cost):
            return None
        if not self.asked.has_room(cost, recipe.cache_in):
            return None
        budget = self._budget(recipe, cost)
        if budget is None:
            return None
        if recipe.cache_in != "ram":
            return _Way(recipe, layers, budget, budget)
        room = self.asked.room_bytes - self.asked.lasting_bytes(recipe)
        tight = replace(budget, working_bytes=min(room, budget.working_bytes or room))
        return _Way(recipe, layers, budget, tight)

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


def _leaves_as_much(one: _Way, other: _Way) -> bool:
    """Whether `one` leaves at least as much of every budget as `other`, kept in the same place."""
    if one.recipe.cache_in != other.recipe.cache_in:
        return False
    pairs = (
        (getattr(a, name), getattr(b, name))
        for a, b in ((one.budget, other.budget), (one.tight, other.tight))
        for name in ("latency_s", "macs", "working_bytes")
    )
    return all(mine is None or (theirs is not None and mine >= theirs) for mine, theirs in pairs)
