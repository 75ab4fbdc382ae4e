"""Samples a pass and recomputation chosen with channels and recipe: by trying all of them."""

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from costsim.solvers import make_solver
from enumerating import Enumerated
from graphs import chain
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from problems import scores_for

from costsim.base.units import parse_seconds
from costsim.cli import main
from costsim.device import load_device
from costsim.ir.cuts import updated_layers
from costsim.ir.plan import UpdatePlan
from costsim.ir.program import even_cuts
from costsim.ir.program.adaptation import Task, frozen_cuts
from costsim.ir.recipe import Recipe
from costsim.ir.step import TrainingStep
from costsim.planning.joint import JointQuestion
from costsim.planning.passes import Choices, Passes, choose_passes
from costsim.planning.recipe_freedom import Freedom
from costsim.planning.task_on_device import Asked
from costsim.planning.ways_of_adapting import Side
from costsim.problem.budget import Budget
from costsim.problem.problem import Problem
from costsim.problem.solution import Status
from costsim.problem.task_budget import TaskBudget
from costsim.solving.pareto import TIE

PI = load_device("pi-zero-2")
TARGET = PI.target(None)
FREEDOM = Freedom((1,), (3, 2), (1,))
SEGMENTS = (1, 2, 3)
SAMPLES = 4


class Case:
    """A drawn question, and every answer there is."""

    def __init__(self, draw, places):
        self.channels = tuple(draw(st.lists(st.integers(1, 2), min_size=2, max_size=3)))
        self.places = places
        graph = self.graph_at(1)
        names = [name for name in graph.layers if graph.selectable_channels(name, "output")][-2:]
        self.importance = scores_for(graph, draw, ("output",), names)
        assume(any(any(entry.scores) for entry in self.importance.channels))
        self.recipe = Recipe(iterations=draw(st.integers(2, 9)), copies=3, optimizer="sgd")
        self.task_budget, self.budget = TaskBudget(), Budget()
        self.found = list(self.every_answer())

    def graph_at(self, batch):
        """The network at so many samples a pass."""
        return chain(batch=batch, channels=self.channels)

    def side(self, passes):
        """The choice of channels for steps that are done so."""
        graph = self.graph_at(passes.micro_batch)
        micro = None if passes.micro_batch == SAMPLES else passes.micro_batch
        cuts = even_cuts(graph, passes.segments)
        step = TrainingStep(SAMPLES, micro, "sgd", recompute=cuts)
        problem = Problem(
            graph, step, self.importance, self.budget,
            timer=TARGET.at(step.bits), compute_w=TARGET.power.compute.value,
        )  # fmt: skip
        asked = Asked(
            graph, UpdatePlan(), Task(SAMPLES, 2), step, PI, budget=self.budget,
            task_budget=self.task_budget,
        )  # fmt: skip
        return Side(problem, asked)

    def every_answer(self):
        """Of every plan by every way: place in the order, gain, bytes and MACs of a step, cost."""
        choices = Choices((1, 2, 4), SEGMENTS, self.graph_at)
        for micro in choices.micro_batches:
            for segments in choices.segments_of(self.graph_at(micro)):
                side = self.side(Passes(micro, segments))
                everything = Enumerated(side.problem)
                assume(len(everything.selections) <= 10)
                for selection, gain in zip(everything.selections, everything.gains, strict=True):
                    yield from self.ways(side, side.problem.plan(selection), float(gain))

    def ways(self, side, plan, gain):
        """Every recipe, cut and cache of one plan."""
        prices = side.problem.table.price_plan(plan)
        step = prices.peak_bytes[0], prices.backward_macs[0]
        asked = replace(side.asked, plan=plan)
        for order, copies in enumerate(FREEDOM.copies):
            recipe = replace(self.recipe, copies=copies)
            cuts = [
                replace(recipe, cut=cut, cache_in=place)
                for cut, place in product(
                    frozen_cuts(asked.graph, updated_layers(plan)), self.places
                )
                if place != "nothing"
            ]
            for way in (recipe, *cuts):
                yield order, gain, step, asked.cost(way).usage, plan

    def allowed(self):
        """Those within the budgets."""
        for order, gain, (peak, macs), usage, plan in self.found:
            within = peak <= (self.budget.memory_bytes or np.inf)
            within &= macs <= (self.budget.macs or np.inf)
            if within and not self.task_budget.exceeded(usage):
                yield order, gain, usage["latency_s"], plan

    def answer(self):
        """What is chosen."""

        def question_by(passes):
            side = self.side(passes)
            return JointQuestion(lambda _: side, self.recipe, FREEDOM, self.places)

        choices = Choices((1, 2, 4), SEGMENTS, self.graph_at)
        return choose_passes(question_by, choices, make_solver("exact"))


@settings(max_examples=4)
@given(st.data())
def test_the_answer_is_the_best_of_all_plans_by_all_ways_and_the_fastest_of_them(data):
    case = Case(data.draw, data.draw(st.sampled_from([("nothing",), ("nothing", "storage")])))
    _, _, (peak, macs), usage, _ = data.draw(st.sampled_from(case.found))
    limits = data.draw(st.sets(st.sampled_from(["memory", "macs", "task"]), min_size=1))
    case.budget = Budget(
        memory_bytes=int(peak) if "memory" in limits else None,
        macs=int(macs) if "macs" in limits else None,
    )
    if "task" in limits:
        slack = data.draw(st.sampled_from([1.0, 1.2]))
        case.task_budget = TaskBudget(latency_s=usage["latency_s"] * slack)
    allowed = list(case.allowed())
    best = max(gain for _, gain, _, _ in allowed)
    reaching = [one for one in allowed if one[1] >= best * (1 - TIE)]
    first = min(order for order, *_ in reaching)
    fastest = min(seconds for order, _, seconds, _ in reaching if order == first)
    found = case.answer()
    solution, priced = found.answer.solution, found.answer.priced
    assert solution.objective == pytest.approx(best, rel=1e-9)
    assert solution.bound >= best * (1 - 1e-9)
    if case.places == ("nothing",):  # what is computed again from a cut has a bound alone
        assert solution.status is Status.OPTIMAL
    assert priced.recipe.copies == FREEDOM.copies[first]
    assert not case.task_budget.exceeded(priced.cost.usage)
    if len({plan for *_, plan in reaching}) == 1:  # of several plans any is an answer
        assert priced.cost.latency_s.value == pytest.approx(fastest, rel=1e-9)
    assert found.answer.problem.exceeded(solution.plan) == {}
    for other in found.alternatives:
        assert other.part in ("micro_batch", "recompute")


@settings(max_examples=2)
@given(st.data())
def test_more_of_a_budget_never_leaves_less(data):
    case = Case(data.draw, ("nothing", "storage"))
    name = data.draw(st.sampled_from(["memory", "macs", "task"]))
    column = {"memory": lambda f: int(f[2][0]), "macs": lambda f: int(f[2][1])}.get(
        name, lambda f: f[3]["latency_s"]
    )
    gains = []
    for amount in sorted({column(found) for found in case.found})[::3]:
        if name == "task":
            case.task_budget = TaskBudget(latency_s=amount)
        else:
            case.budget = Budget(**{"memory_bytes" if name == "memory" else name: amount})
        gains.append(case.answer().answer.solution.objective or 0.0)
    assert gains == sorted(gains)


SMALL = [
    "plan", "--device", "jetson-nano", "--resolution", "48", "--inspect", "4", "--ways", "2",
    "--shots", "2", "--json",
]  # fmt: skip


def test_the_command_chooses_passes_only_where_they_are_free(capsys):
    def planned(*more):
        assert main([*SMALL, "--memory", "4MiB", *more]) == 0
        return json.loads(capsys.readouterr().out)

    def whole(plan):
        return plan["predicted"]["adaptation"]["latency_s"]["value"]

    given, free = planned(), planned("--free-passes")
    assert given["step"]["micro_batch"] == 1
    assert (free["step"]["batch"], free["step"]["micro_batch"]) == (4, None)
    assert free["recipe"]["micro_batch"] == 4
    assert whole(free) < whole(given)
    assert free["solver"]["objective"] == pytest.approx(given["solver"]["objective"])
    others = {
        (other["part"], other["value"]): other["latency_s"]["value"]
        for other in free["predicted"]["adaptation"]["alternatives"]
    }
    assert others["micro_batch", 1] == pytest.approx(whole(given))
    assert planned("--free-passes", "--micro-batch", "2")["step"]["micro_batch"] == 2
    pinned = planned("--free-passes", "--recompute", "2")
    assert len(pinned["step"]["recompute"]) == 1


@pytest.mark.slow
def test_where_nothing_fits_the_passes_given_it_is_said_that_others_do(capsys):
    """And only where they do: within a little more than one pass of four images takes."""
    assert main([*SMALL, "--latency", "1us"]) == 1
    least = capsys.readouterr().err.split("--latency ")[1].split(" would do")[0]
    tight = [*SMALL, "--latency", f"{parse_seconds(least) * 0.9}s"]
    told = "note: in passes of 4 samples there is a plan: --free-passes chooses them"
    assert main(tight) == 1
    assert told in capsys.readouterr().err
    assert main([*tight, "--free-passes"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"]["micro_batch"] == 4
    for more in (["--micro-batch", "1", "--recompute", "1"], ["--latency", "1us"]):
        assert main([*tight, *more]) == 1
        assert "--free-passes" not in capsys.readouterr().err


def test_what_looks_at_given_passes_refuses_to_choose_them(capsys):
    for more in (["--device", "pi-zero-2"], ["--solve-for", "memory", "--share", "90%"]):
        assert main([*SMALL, *more, "--free-passes"]) == 2
        assert "leave --free-passes out" in capsys.readouterr().err
