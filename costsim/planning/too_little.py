"""What is said where no way of adapting leaves enough for any plan: which budget, what would do."""

from dataclasses import replace

import numpy as np

from costsim.ir.recipe import Recipe
from costsim.planning.recipes import choose_cache
from costsim.planning.ways_of_adapting import Ways
from costsim.problem.solution import Solution, Status
from costsim.problem.task_budget import TaskBudget, described, enough


def nothing_fits(ways: Ways, recipe: Recipe, alone: Solution) -> Solution:
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
        reason=_too_little(ways, recipe),
    )


def _too_little(ways: Ways, recipe: Recipe) -> str:
    """Which budgets of the whole are too little, and what would do, by the cheapest plans."""
    problem, asked = ways.problem, ways.asked
    budget = asked.task_budget
    free = replace(asked, task_budget=TaskBudget(storage_bytes=budget.storage_bytes))
    single = np.eye(len(problem.candidates), dtype=np.int64)
    used = [
        choose_cache(replace(free, plan=problem.plan(row)), recipe, ways.caches).cost.usage
        for row in single[problem.fits(single)]
    ]
    if all(one["latency_s"] is None for one in used):
        return (
            f"the whole adaptation has no room on {asked.device.name}, whatever its "
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
