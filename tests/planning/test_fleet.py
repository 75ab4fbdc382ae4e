"""One plan for several devices, against brute force over all of their budgets."""

import json

import numpy as np
import pytest
from costsim.solvers.brute_force import BruteForce
from costsim.solvers.exact import Exact
from costsim.solvers.greedy import Greedy
from graphs import chain
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from problems import RooflineTimer, problems

from costsim.base.errors import InputError
from costsim.cli import main
from costsim.ir.step import TrainingStep
from costsim.planning.fleet import Member, common_budget, solve_fleet
from costsim.problem.budget import Budget
from costsim.problem.importance import ChannelScores, Importance
from costsim.problem.problem import Problem
from costsim.problem.solution import Status


class OtherTimer:
    """Pays for bytes where the other one pays for MACs."""

    def operation_seconds(self, work_kind, direction, macs, moved_bytes, kernel=None):
        return 1.0 + np.asarray(macs) / 1e9 + np.asarray(moved_bytes) * 3.0


def on(problem, budget, timer):
    return Problem(
        problem.graph,
        problem.step,
        problem.importance,
        budget,
        with_bias=problem.with_bias,
        timer=timer,
        compute_w=2.0,
    )


@st.composite
def fleets(draw):
    """Two devices whose budgets are the costs of a drawn selection each."""
    first = draw(problems(max_layers=3, simple=True))
    wide = Budget(10**9, "peak", 10**12, 1e12, 1e12)
    members = []
    for name, timer in (("one", RooflineTimer()), ("two", OtherTimer())):
        free = on(first, wide, timer)
        selection = [draw(st.integers(0, c.size)) for c in free.candidates]
        usage = free.usage(np.array([selection]))
        kept = {
            limit: type(getattr(wide, limit))(usage[limit][0])
            for limit in ("memory_bytes", "macs", "latency_s")
            if draw(st.booleans())
        }
        members.append(Member(name, on(first, Budget(**kept), timer), timer))
    return members


def best_for_all(members):
    """The greatest gain of a selection that every member allows, None if there is none."""
    first = members[0].problem
    sizes = [c.size + 1 for c in first.candidates]
    selections = np.indices(sizes).reshape(len(sizes), -1).T[1:]
    allowed = np.logical_and.reduce([m.problem.fits(selections) for m in members])
    return first.gains(selections[allowed]).max() if allowed.any() else None


@settings(max_examples=30)
@given(fleets())
def test_a_fleets_plan_fits_all_and_its_bound_holds(members):
    assume(np.prod([c.size + 1.0 for c in members[0].problem.candidates]) <= 20_000)
    best = best_for_all(members)
    answer, _ = solve_fleet(members, Exact())
    if best is None:
        assert answer.plan is None
        return
    assert answer.bound is None or answer.bound >= best * (1 - 1e-9)
    if answer.plan is None:  # no claim that there is none
        assert answer.status is Status.TIME_LIMIT
        return
    assert not any(m.problem.exceeded(answer.plan) for m in members)
    gain = members[0].problem.gain(answer.plan)
    assert gain <= best * (1 + 1e-9)
    if answer.status is Status.OPTIMAL:
        assert gain == pytest.approx(best, rel=1e-9)


@settings(max_examples=30)
@given(fleets())
def test_memory_and_macs_alone_are_solved_exactly(members):
    assume(sum(m.problem.seconds_limit is not None for m in members) < 2)
    assume(np.prod([c.size + 1.0 for c in members[0].problem.candidates]) <= 20_000)
    best = best_for_all(members)
    for solver in (Exact(), BruteForce()):
        answer, _ = solve_fleet(members, solver)
        assert (answer.plan is None) == (best is None)
        if best is not None:
            assert answer.status is Status.OPTIMAL
            assert members[0].problem.gain(answer.plan) == pytest.approx(best, rel=1e-9)


def member(name, budget, timer=None):
    graph = chain(channels=(8, 12, 10, 9))
    entries = tuple(
        ChannelScores(layer, "output", tuple(1.0 / (1 + i + c) for c in range(count)))
        for i, layer in enumerate(graph.layers)
        if (count := graph.selectable_channels(layer, "output"))
    )
    importance = Importance("drawn", entries)
    timer = timer or RooflineTimer()
    return Member(name, Problem(graph, TrainingStep(), importance, budget, timer=timer), timer)


def test_the_device_that_nothing_fits_is_named():
    answer, _ = solve_fleet([member("big", Budget()), member("small", Budget(10))], Greedy())
    assert answer.status is Status.INFEASIBLE
    assert answer.reason.startswith("small: ")
    assert "would do" in answer.reason


def test_the_least_of_each_kind_is_common():
    members = [
        member("one", Budget(5000, "paper", macs=900, working_bytes=7000)),
        member("two", Budget(6000, "peak", macs=800)),
    ]
    assert common_budget(members) == Budget(5000, "paper", 800, working_bytes=6000)
    with pytest.raises(InputError, match=r"paper and tiny-training.*--accounting"):
        common_budget([*members, member("three", Budget(1, "tiny-training"))])


TWO = ("--device", "jetson-nano", "--device", "pi-zero-2")
SMALL = ("--resolution", "32", "--ways", "3", "--shots", "2", "--inspect", "4")


def test_the_command_says_used_and_allowed_for_every_device(tmp_path, capsys):
    page = tmp_path / "page.html"
    written = ("--out", str(tmp_path / "plan.json"), "--report", str(page))
    assert main(["plan", *TWO, *SMALL, "--latency", "10s", *written]) == 0
    assert "on pi-zero-2" in capsys.readouterr().out
    assert "Budgets on pi-zero-2" in page.read_text()
    from costsim.solving.planfile import PlanFile, read_plan

    file = read_plan(tmp_path / "plan.json")
    document = json.loads((tmp_path / "plan.json").read_text())
    assert PlanFile.from_json(document) == file
    assert file.device.name == "jetson-nano"
    assert [one.device.name for one in file.fleet] == ["pi-zero-2"]
    for budget, predicted in (
        (file.budget, file.predicted),
        *((f.budget, f.predicted) for f in file.fleet),
    ):
        assert predicted.memory.peak_bytes <= budget.memory_bytes
        assert predicted.macs.backward <= budget.macs
        assert predicted.latency_s.step <= budget.latency_s


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--device", "jetson-nano", "--device", "jetson-nano"), "jetson-nano is given twice"),
        (("--device", "jetson-nano", "--device", "stm32f746"), "give --bits"),
        ((*TWO, "--explain"), "--explain is for one"),
        (
            (*TWO, "--solve-for", "memory", "--share", "50%"),
            "--solve-for memory is for one",
        ),
    ],
)
def test_what_a_fleet_cannot_be_asked(arguments, said, capsys):
    assert main(["plan", *arguments, *SMALL]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
