"""Planning backwards against all plans there are: what is found does, and nothing less does."""

import json
from itertools import product

import numpy as np
import pytest
from by_default import by_default
from costsim.solvers.exact import Exact
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from problems import problems

from costsim.cli import main
from costsim.planning.inverse import UNITS, smallest_budget
from costsim.problem.budget import BUDGETS
from costsim.solving.pareto import TIE, lifted, within

EXACT = Exact()


@settings(max_examples=20)
@given(problems(max_layers=3), st.sampled_from(sorted(BUDGETS)), st.integers(1, 10))
def test_the_smallest_budget_is_what_trying_everything_finds(problem, sought, tenths):
    assume(np.prod([c.size + 1.0 for c in problem.candidates]) <= 3000)
    assume(problem.importance.full_gain > 0)
    limit, target = BUDGETS[sought], tenths / 10 * problem.importance.full_gain
    amount, solution, proven = smallest_budget(problem, EXACT, limit, tenths / 10)
    assert proven
    counts = product(*(range(c.size + 1) for c in problem.candidates))
    selections = np.array([row for row in counts if any(row)])
    reaching = selections[problem.gains(selections) >= target * (1 - TIE)]

    def does(asked):
        return len(reaching) > 0 and bool(asked.fits(reaching).any())

    unlimited = lifted(problem, limit)
    if amount is None:
        assert not does(unlimited)
        return
    assert solution.objective >= target * (1 - TIE)
    assert not within(unlimited, limit, amount).exceeded(solution.plan)
    assert does(within(unlimited, limit, amount))
    assert amount == 0 or not does(within(unlimited, limit, amount - UNITS[limit]))


@settings(max_examples=3)
@given(problems(max_layers=3), st.sampled_from(sorted(BUDGETS)))
def test_a_greater_share_never_takes_less(problem, sought):
    assume(problem.importance.full_gain > 0)
    found = [
        smallest_budget(problem, EXACT, BUDGETS[sought], share)[0] for share in (0.1, 0.4, 0.8)
    ]
    amounts = [np.inf if amount is None else amount for amount in found]
    assert amounts == sorted(amounts)


TASK = ("plan", "--shots", "1", "--ways", "2")
NANO = (*TASK, "--device", "jetson-nano")


def planned(capsys, *options):
    """Exit status and plan file."""
    status = main([*options, "--json"])
    return status, json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_the_smallest_memory_does_and_a_byte_less_does_not(capsys):
    status, file = planned(capsys, *NANO, "--solve-for", "memory", "--share", "30%")
    sought = file["sought"]
    assert status == 0
    assert sought["proven"]
    assert sought["reached"] >= 0.3
    assert file["budgets"]["memory_bytes"] == sought["value"] == int(sought["value"])
    whole = file["solver"]["objective"] / sought["reached"]
    for less in (0, 1):
        memory = f"{sought['value'] - less}B"
        _, again = planned(capsys, *NANO, "--solver", "exact", "--memory", memory)
        reached = (again["solver"]["objective"] or 0.0) / whole
        assert (reached >= 0.3 * (1 - TIE)) == (less == 0)


@pytest.mark.parametrize("sought", by_default(["batch", "resolution"], ["resolution"]))
def test_the_most_work_does_and_more_does_not(capsys, sought):
    limits = ("--memory", "3MiB", "--latency", "1s")
    options = (*NANO, *limits, "--share", "30%")
    status, file = planned(capsys, *options, "--solve-for", sought)
    assert status == 0
    assert file["sought"]["proven"]
    value = file["sought"]["value"]
    planned_for = {"batch": file["step"]["batch"], "resolution": file["model"]["resolution"]}
    assert planned_for[sought] == value > 1
    if sought == "batch":  # whose scores are the same at any size
        whole = file["solver"]["objective"] / file["sought"]["reached"]
        more = ("--batch", str(value + 1), "--solver", "exact")
        _, again = planned(capsys, *NANO, *limits, *more)
        assert (again["solver"]["objective"] or 0.0) / whole < 0.3


def test_the_smallest_device(capsys):
    status, file = planned(capsys, *TASK, "--solve-for", "device", "--share", "1%")
    assert status == 0
    assert file["sought"]["value"] == file["device"]["name"]
    status, file = planned(capsys, *TASK, "--solve-for", "device", "--share", "100%")
    assert status == 1
    assert file["sought"]["value"] is None
    assert file["sought"]["sentence"].startswith("No shipped device reaches 100 %")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--solve-for", "memory"], "--solve-for needs --share"),
        (["--share", "90%"], "--solve-for must reach, which is missing"),
        (["--solve-for", "memory", "--share", "90"], "cannot read '90'; give a percentage above"),
        (["--solve-for", "memory", "--share", "0%"], "cannot read '0%'"),
        (["--solve-for", "memory", "--share", "120%"], "outside 0% to 100%"),
        (["--solve-for", "memory", "--share", "9%", "--memory", "1MB"], "--memory is given, but"),
        (["--solve-for", "batch", "--share", "9%", "--batch", "2"], "--batch is given, but"),
        (["--solve-for", "device", "--share", "9%"], "--device is given, but"),
        (["--solve-for", "macs", "--share", "9%", "--solver", "greedy"], "greedy does not, exact"),
        (["--solve-for", "joy", "--share", "9%"], "'joy' is not one of"),
    ],
)
def test_contradictions_are_one_clear_line(capsys, options, said):
    assert main([*NANO, *options]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert said in line
    assert captured.out == ""


def test_a_device_is_needed_unless_it_is_sought(capsys):
    assert main([*TASK]) == 2
    assert "--device is missing" in capsys.readouterr().err


def test_a_share_that_nothing_reaches(capsys):
    status = main([*NANO, "--solve-for", "memory", "--share", "100%", "--macs", "1%"])
    captured = capsys.readouterr()
    assert status == 1
    assert "No memory budget reaches 100 % of all gain" in captured.err
