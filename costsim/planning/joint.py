"""Channels and recipe chosen together, within the budgets of a step and of the whole adaptation.

The greatest gain over all ways of adapting (`ways_of_adapting`) is the answer, and proven where
that was answered with a proof. Ways that change no result are all compared. A recipe that spares
work (see `Freedom`) is taken only where it leaves a greater gain, and then the one that spares
least of those that leave it.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import inf

from costsim.base.progress import Progress, silent
from costsim.ir.recipe import CacheIn, Recipe
from costsim.planning.recipe_freedom import Freedom
from costsim.planning.recipes import PricedRecipe, choose_cache
from costsim.planning.side_search import Found, SideSearch
from costsim.planning.too_little import nothing_fits
from costsim.planning.ways_of_adapting import Side, Ways
from costsim.problem.problem import Problem
from costsim.problem.solution import Solution, Solver, Status
from costsim.solving.arena_budget import INTERRUPTED
from costsim.solving.pareto import TIE


@dataclass(frozen=True)
class JointQuestion:
    """What is asked: a choice of channels, and of the recipe that a person's `recipe` begins from.

    `sides` gives the choice of channels, and all else that prices an adaptation, by recipes that
    show each image in every so many iterations: steps over fewer images are other steps. `caches`
    says where values may be kept.
    """

    sides: Callable[[int], Side]
    recipe: Recipe
    freedom: Freedom
    caches: tuple[CacheIn, ...]


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
    ways = Ways(side, question.caches)
    search = SideSearch(ways, solver, report)
    alone = search.alone()
    if alone.plan is None:
        return JointAnswer(side.problem, search.told(alone), None)
    report("pricing the whole adaptation", 0, 0)
    if ways.may_keep(question.recipe, alone.plan):
        asked = replace(side.asked, plan=alone.plan)
        priced = choose_cache(asked, question.recipe, question.caches)
        if not side.asked.exceeded(priced.cost):
            return JointAnswer(side.problem, search.told(alone), priced)
    if alone.reason == INTERRUPTED:  # what there is so far is not within the budgets
        raise KeyboardInterrupt
    return _Search(question, solver, report, search, alone).answer()


class _Search:
    """Over recipes: which leave the greatest gain, and which of these spares least."""

    def __init__(
        self,
        question: JointQuestion,
        solver: Solver,
        report: Progress,
        first: SideSearch,
        alone: Solution,
    ) -> None:
        self.question, self.solver, self.report = question, solver, report
        self.alone = alone
        self.searches = {question.recipe.image_interval: first}

    def of(self, recipe: Recipe) -> SideSearch:
        """The search among steps as the recipe does them."""
        interval = recipe.image_interval
        if interval not in self.searches:
            side, (first, *_) = self.question.sides(interval), self.searches.values()
            # Programs without updates are those of the first side: they are read once.
            side = replace(side, asked=replace(side.asked, readings=first.asked.readings))
            ways = Ways(side, self.question.caches)
            self.searches[interval] = SideSearch(ways, self.solver, self.report)
        return self.searches[interval]

    def answer(self) -> JointAnswer:
        """See `choose_jointly`."""
        most = self.question.freedom.most_sparing(self.question.recipe)
        search = self.of(most)
        known = self._kept(search, most)
        gain = -1.0 if known is None else known.gain
        tried = list(search.best(most, gain))
        best = max(tried, key=lambda found: found.gain, default=None)
        if known is not None and (best is None or best.gain <= gain * (1 + TIE)):
            best = known
        if best is None or best.solution.plan is None:
            return JointAnswer(search.problem, nothing_fits(search.ways, most, self.alone), None)
        bound = max((found.bound for found in tried), default=best.gain)
        able = None
        if not best.of_all:
            able = {found.way.layers for found in tried if found.bound >= best.gain * (1 - TIE)}
        found = self._least_sparing(best, able)
        recipe = replace(found.way.recipe, cut=None, cache_in="nothing")
        search = self.of(recipe)
        stopped = any(one.solution.status is Status.TIME_LIMIT for one in tried)
        solution = self._judged(found.solution, bound, stopped=stopped)
        seconds = sum(one.seconds for one in self.searches.values())
        solution = replace(search.told(solution), seconds=seconds)
        assert solution.plan is not None
        asked = replace(search.asked, plan=solution.plan)
        priced = choose_cache(asked, recipe, self.question.caches)
        return JointAnswer(search.problem, solution, priced)

    def _kept(self, search: SideSearch, recipe: Recipe) -> Found | None:
        """The best plan without budgets of the whole, where it keeps to the recipe."""
        assert self.alone.plan is not None
        way = search.keeping(recipe, self.alone.plan)
        return None if way is None else Found(way, self.alone, inf, of_all=True)

    def _judged(self, solution: Solution, bound: float, *, stopped: bool) -> Solution:
        """With the status of the whole search, of which nothing gains more than `bound`."""
        assert solution.objective is not None
        if self.alone.bound is None:
            return replace(solution, status=Status.FEASIBLE, bound=None)
        bound = max(bound, solution.objective)
        if bound <= solution.objective * (1 + TIE):
            return replace(solution, status=Status.OPTIMAL, bound=solution.objective)
        status = Status.TIME_LIMIT if stopped else Status.FEASIBLE
        return replace(solution, status=status, bound=bound)

    def _least_sparing(self, best: Found, able: set[frozenset[str]] | None) -> Found:
        """Of the recipes that reach the gain of `best`, the first by preference.

        Only ways that reach it with all that may be spared can reach it with less spared.
        """

        assert best.solution.plan is not None
        plan = best.solution.plan

        @cache
        def reaching(recipe: Recipe) -> Found | None:
            search = self.of(recipe)
            way = search.keeping(recipe, plan)
            if way is not None:
                return replace(best, way=way)
            tried = search.reaching(recipe, best.gain, able)
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
