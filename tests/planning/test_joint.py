"""Channels and recipe chosen together: the best of all plans by all recipes, by trying them."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from costsim.solvers import make_solver
from enumerating import Enumerated
from graphs import graphs
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from problems import scores_for

from costsim.base.errors import InputError
from costsim.cli import main
from costsim.device import load_device
from costsim.ir.cuts import updated_layers
from costsim.ir.program.adaptation import Scored, Task, frozen_cuts
from costsim.ir.recipe import Recipe
from costsim.ir.step import TrainingStep
from costsim.planning.joint import JointQuestion, choose_jointly
from costsim.planning.joint_question import joint_question
from costsim.planning.posed_problem import prepare
from costsim.planning.recipe_freedom import Freedom
from costsim.planning.request import BudgetRequest, PlanRequest
from costsim.planning.task_on_device import Asked
from costsim.planning.ways_of_adapting import Side
from costsim.problem.budget import Budget
from costsim.problem.problem import Problem
from costsim.problem.solution import Status
from costsim.problem.task_budget import TaskBudget
from costsim.solving.pareto import TIE

PI = load_device("pi-zero-2")
TARGET = PI.target(None)
EXACT = make_solver("exact")
FREEDOM = Freedom((1, 2), (3, 2), (1, 2))
MOST_PLANS = 16


class Case:
    """A drawn question, and every answer there is."""

    def __init__(self, draw, places, *, recompute=False):
        graph = draw(graphs(max_calls=6, simple=True))
        names = [name for name in graph.layers if graph.selectable_channels(name, "output")]
        few = draw(st.sampled_from([1, 2, 2, 2]))
        names = names[:few] if draw(st.booleans()) else names[-few:]
        assume(names)
        self.graph, self.places = graph, places
        self.importance = scores_for(graph, draw, ("output",), names)
        self.task = Task(graph.batch * draw(st.integers(1, 3)), 2)
        self.recipe = Recipe(iterations=draw(st.integers(2, 20)), copies=3, optimizer="sgd")
        self.scored = Scored(tuple(names))
        self.whole = draw(st.booleans())
        self.recompute = recompute
        self.task_budget, self.room = TaskBudget(), None
        self.sides = {}
        sizes = [candidate.size for candidate in self.side(1).problem.candidates]
        assume(np.prod([size + 1 for size in sizes]) <= MOST_PLANS)
        self.ways = [way for recipe in self.recipes() for way in self.priced(recipe)]
        assume(self.ways)

    def step(self, image_interval):
        """Over all images that an iteration shows, or over those of one pass."""
        passes = self.graph.batch
        if not self.whole:
            return TrainingStep(passes)
        shown = self.task.samples // image_interval + self.task.samples % image_interval
        shown = -(-shown // passes) * passes
        return TrainingStep(shown, None if shown == passes else passes)

    def side(self, image_interval):
        """The choice of channels for steps of such recipes, posed once."""
        asked = image_interval, self.room, self.task_budget
        if asked not in self.sides:
            self.sides[asked] = self.posed(image_interval)
        return self.sides[asked]

    def posed(self, image_interval):
        step = self.step(image_interval)
        problem = Problem(
            self.graph,
            step,
            self.importance,
            Budget(memory_bytes=self.room),
            timer=TARGET.at(step.bits),
            compute_w=TARGET.power.compute.value,
        )
        asked = Asked(
            self.graph, problem.plan([0] * len(problem.candidates)), self.task, step, PI, None,
            self.scored, problem.budget, self.task_budget,
        )  # fmt: skip
        return Side(problem, asked)

    def recipes(self):
        """All that the freedom allows, with their place in the order of preference."""
        for i, c, m in product(*map(range, (2, 2, 2))):
            yield (
                (i, c, m),
                replace(
                    self.recipe,
                    image_interval=FREEDOM.image_intervals[i],
                    copies=FREEDOM.copies[c],
                    means_interval=FREEDOM.means_intervals[m],
                ),
            )

    def priced(self, numbered):
        """Every plan by every way of one recipe: place in the order, gain, what it takes."""
        order, recipe = numbered
        side = self.side(recipe.image_interval)
        everything = Enumerated(side.problem)
        for selection, gain in zip(everything.selections, everything.gains, strict=True):
            plan = side.problem.plan(selection)
            asked = replace(side.asked, plan=plan)
            cuts = [
                replace(recipe, cut=cut, cache_in=place)
                for cut in frozen_cuts(self.graph, updated_layers(plan))
                for place in self.places
                if place != "nothing"
            ]
            for way in (recipe, *cuts):
                yield order, float(gain), asked, way, asked.cost(way)

    def tight(self):
        """Ways with a cut by which the greatest gain is reached; all where there is none."""
        most = max(gain for _, gain, *_ in self.ways)
        return [one for one in self.ways if one[1] == most and one[3].cut] or self.ways

    def allowed(self):
        """Those within the budgets."""
        for order, gain, asked, way, cost in self.ways:
            here = replace(asked, budget=Budget(memory_bytes=self.room))
            if self.room is not None and self.step_peak(asked, way) > self.room:
                continue
            if not self.task_budget.exceeded(cost.usage) and here.has_room(cost, way.cache_in):
                yield order, gain

    def step_peak(self, asked, way):
        """Bytes of a step from the image on."""
        table = self.side(way.image_interval).problem.table
        return table.price_plan(asked.plan).peak_bytes[0]

    def answer(self, solver=EXACT):
        """What is chosen."""
        question = JointQuestion(self.side, self.recipe, FREEDOM, self.places)
        return choose_jointly(question, solver)


@settings(max_examples=60)
@given(st.data())
def test_the_answer_is_the_best_of_all_plans_by_all_recipes(data):
    places = data.draw(st.sampled_from([("nothing",), ("nothing", "storage"), ("storage",)]))
    case = Case(data.draw, places)
    ways = data.draw(st.sampled_from([lambda: case.ways, case.tight]))()
    usage = ways[data.draw(st.integers(0, len(ways) - 1))][4].usage
    slack = data.draw(st.sampled_from([1.0, 1.0, 1 - 1e-6, 1.2]))
    limits = data.draw(st.sets(st.sampled_from(sorted(usage)), min_size=1))
    case.task_budget = TaskBudget(
        **{name: type(usage[name])(usage[name] * slack) for name in limits}
    )
    check(case)


def check(case):
    """Gain, proof and preference, against all answers there are."""
    allowed = list(case.allowed())
    answer = case.answer()
    if not allowed:
        assert answer.priced is None
        assert answer.solution.status is Status.INFEASIBLE
        assert "by any recipe" in answer.solution.reason
        return
    best = max(gain for _, gain in allowed)
    assert answer.priced is not None
    assert answer.solution.status is Status.OPTIMAL
    assert answer.solution.objective == pytest.approx(best, rel=1e-9)
    assert not case.task_budget.exceeded(answer.priced.cost.usage)
    first = min(order for order, gain in allowed if gain >= best * (1 - TIE))
    recipe = answer.priced.recipe
    chosen = (recipe.image_interval, recipe.copies, recipe.means_interval)
    i, c, m = first
    # what gains the same alone, without budgets of the whole, is not asked again
    assert chosen == (FREEDOM.image_intervals[i], FREEDOM.copies[c], FREEDOM.means_intervals[m])


@settings(max_examples=12)
@given(st.data())
def test_what_lies_beside_a_step_has_room_and_the_bound_holds(data):
    case = Case(data.draw, ("nothing", "ram", "storage"))
    _, _, _, _, cost = data.draw(st.sampled_from(case.ways))
    case.task_budget = TaskBudget(latency_s=cost.usage["latency_s"])
    case.room = cost.peak_bytes
    allowed = list(case.allowed())
    answer = case.answer()
    best = max((gain for _, gain in allowed), default=None)
    if answer.priced is None:
        assert best is None or answer.solution.status is not Status.OPTIMAL
        return
    assert not case.task_budget.exceeded(answer.priced.cost.usage)
    asked = replace(case.side(1).asked, plan=answer.solution.plan)
    assert asked.has_room(answer.priced.cost, answer.priced.recipe.cache_in)
    assert best is not None
    assert answer.solution.objective <= best * (1 + 1e-9)
    assert answer.solution.bound >= best * (1 - 1e-9)
    if answer.solution.status is Status.OPTIMAL:
        assert answer.solution.objective == pytest.approx(best)


def test_what_is_kept_in_ram_leaves_no_proof_in_a_gap():
    """It lies beside the step that begins at the cut, which holds less than one from the image."""
    request = PlanRequest(
        PI,
        step=TrainingStep(50, 1, "adam"),
        caches=("nothing", "ram"),
        budget=BudgetRequest(memory_bytes=6 << 20, macs_share=0.5),
    )
    prepared = prepare(request)
    free = choose_jointly(joint_question(prepared), EXACT)
    whole = free.priced.cost.latency_s.value
    limit = TaskBudget(latency_s=0.3 * whole)
    question = joint_question(replace(prepared, request=replace(request, task_budget=limit)))
    answer = choose_jointly(question, EXACT)
    assert answer.priced.recipe.cache_in == "ram"
    assert answer.priced.cost.latency_s.value <= limit.latency_s * (1 + 1e-9)
    assert answer.solution.status is Status.OPTIMAL


@settings(max_examples=10)
@given(st.data())
def test_more_of_a_budget_never_leaves_less(data):
    case = Case(data.draw, ("nothing", "storage"))
    name = data.draw(st.sampled_from(["latency_s", "energy_j", "macs", "storage_bytes"]))
    amounts = sorted({cost.usage[name] for *_, cost in case.ways})
    gains = []
    for amount in amounts[:: max(1, len(amounts) // 4)]:
        case.task_budget = TaskBudget(**{name: amount})
        gains.append(case.answer().solution.objective or 0.0)
    assert gains == sorted(gains)


def test_without_budgets_of_the_whole_nothing_is_spared():
    recipe = Recipe()
    freedom = Freedom.within_evidence(recipe)
    assert freedom.image_intervals == (1, 2)
    assert freedom.copies == (8, 7, 6, 5, 4)
    assert freedom.means_intervals == (1, 2, 3, 4, 5)
    pinned = Freedom.within_evidence(recipe, pinned=frozenset({"copies", "image_interval"}))
    assert (pinned.image_intervals, pinned.copies) == ((1,), (8,))
    assert Freedom.within_evidence(replace(recipe, copies=0)).copies == (0,)
    assert Freedom.within_evidence(replace(recipe, copies=2)).copies == (2,)
    logits = Freedom.within_evidence(replace(recipe, loss="cross_entropy"))
    assert logits.means_intervals == (1,)


SMALL = ["plan", "--device", "pi-zero-2", "--resolution", "48", "--inspect", "6", "--ways", "3"]


def test_the_command_spares_what_a_budget_asks_for_and_says_so(capsys):
    def planned(*more):
        assert main([*SMALL, *more, "--json"]) == 0
        import json

        return json.loads(capsys.readouterr().out)

    free = planned()
    whole = free["predicted"]["adaptation"]["latency_s"]["value"]
    spared = free["predicted"]["adaptation"]["alternatives"]
    assert [(o["part"], o["value"]) for o in spared][:3] == [
        ("image_interval", 2),
        ("means_interval", 5),
        ("copies", 4),
    ]
    assert all(o["latency_s"]["value"] < whole for o in spared[:3])
    assert free["recipe"]["image_interval"] == free["recipe"]["means_interval"] == 1
    assert "task" not in free["budgets"]
    half = planned("--task-time", f"{whole / 2}s")
    assert half["budgets"]["task"]["latency_s"] == whole / 2
    assert half["predicted"]["adaptation"]["latency_s"]["value"] <= whole / 2
    assert half["recipe"]["image_interval"] == 2
    assert half["solver"]["objective"] == pytest.approx(free["solver"]["objective"])
    others = {(o["part"], o["value"]) for o in half["predicted"]["adaptation"]["alternatives"]}
    assert ("image_interval", 1) in others
    pinned = planned("--task-time", f"{whole / 2}s", "--image-interval", "1")
    assert pinned["recipe"]["image_interval"] == 1
    assert pinned["solver"]["objective"] < free["solver"]["objective"]


@pytest.mark.slow
def test_too_little_says_what_would_do(capsys):
    assert main([*SMALL, "--task-time", "1s"]) == 1
    told = capsys.readouterr().out
    assert "time of the task 1 s is too little" in " ".join(told.split())
    enough = " ".join(told.split()).split("is too little, ")[1].split(" would do")[0]
    assert main([*SMALL, "--task-time", enough]) == 0


@pytest.mark.slow
def test_a_device_without_room_for_the_whole_says_that(capsys):
    chip = ["plan", "--device", "stm32f746", "--model", "mbv2-w0.35", "--resolution", "64"]
    assert main([*chip, "--inspect", "4", "--bits", "8", "--task-time", "9min"]) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert "the whole adaptation has no room on stm32f746, whatever its budgets" in told
    few = ["--ways", "2", "--shots", "2"]
    assert main([*chip, *few, "--inspect", "4", "--bits", "8", "--task-time", "9min"]) == 0


def test_budgets_of_the_whole_are_for_one_plan(capsys):
    for more in (
        ["--device", "jetson-nano"],
        ["--solve-for", "memory", "--share", "90%"],
        ["--explain"],
    ):
        assert main([*SMALL, *more, "--task-time", "9min"]) == 2
        assert "looks at budgets of a step alone" in capsys.readouterr().err
    with pytest.raises(InputError, match="energy_j"):
        TaskBudget(energy_j=-1.0)


def test_passes_that_an_iteration_does_not_fill_are_told(capsys):
    few = [*SMALL, "--shots", "3"]
    assert main([*few, "--micro-batch", "4"]) == 0
    assert "an iteration shows 9 images in 3 passes of 4" in capsys.readouterr().err
    assert main([*few, "--micro-batch", "3"]) == 0
    assert "filled" not in capsys.readouterr().err
