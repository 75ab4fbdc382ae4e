"""Frontiers against all plans there are, and what the command makes of them."""

import csv
import json
from itertools import product

import numpy as np
import pytest
from click.testing import CliRunner
from costsim.solvers.exact import Exact
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from problems import problems

from costsim.base.errors import InputError
from costsim.cli import main
from costsim.cli.pareto import command
from costsim.pricing.accounting.sparse_update import SCHEMES
from costsim.problem.budget import BUDGETS, Budget
from costsim.problem.solution import Answer, Status
from costsim.solving.pareto import below, frontier, lifted, non_dominated, priced

EXACT = Exact()


class FirstThatFits:
    """One channel: that of the first candidate that fits."""

    name = "first that fits"

    def __call__(self, problem):
        singles = np.eye(len(problem.candidates), dtype=np.int64)
        fitting = singles[problem.fits(singles)]
        plan = problem.plan(fitting[0]) if len(fitting) else None
        return Answer(plan, Status.FEASIBLE if len(fitting) else Status.INFEASIBLE)


def every_plan(problem, limit):
    """Use and gain of each selection within the limits that opens anything."""
    if getattr(problem.budget, limit) is None:
        problem = lifted(problem, limit)
    counts = product(*(range(c.size + 1) for c in problem.candidates))
    selections = np.array([row for row in counts if any(row)])
    fitting = selections[problem.fits(selections)]
    return problem.usage(fitting)[limit], problem.gains(fitting)


def brute_force(problem, limit):
    """The frontier as pairs of use and gain."""
    kept: list[tuple[float, float]] = []
    used, gains = every_plan(problem, limit)
    for i in np.lexsort((-gains, used)):
        if gains[i] > (kept[-1][1] if kept else 0):
            kept.append((used[i], gains[i]))
    return kept


def small(problem, most=3000):
    return np.prod([c.size + 1.0 for c in problem.candidates]) <= most


@settings(max_examples=25)
@given(problems(max_layers=3), st.sampled_from(sorted(BUDGETS)))
def test_the_whole_frontier_equals_brute_force(problem, against):
    assume(small(problem) and problem.importance.full_gain > 0)
    found = frontier(problem, EXACT, against, points=None)
    expected = brute_force(problem, BUDGETS[against])
    assert found.complete
    assert [p.used for p in found.points] == pytest.approx([u for u, _ in expected], rel=1e-9)
    assert [p.gain for p in found.points] == [g for _, g in expected]
    assert all(point.proven for point in found.points)


@settings(max_examples=25)
@given(problems(max_layers=3), st.sampled_from(sorted(BUDGETS)), st.integers(2, 6))
def test_some_points_are_points_of_the_frontier(problem, against, points):
    assume(small(problem) and problem.importance.full_gain > 0)
    found = frontier(problem, EXACT, against, points=points, beside=(FirstThatFits(),))
    expected = brute_force(problem, BUDGETS[against])
    pairs = [(point.used, point.gain) for point in found.points]
    assert pairs == sorted(pairs)
    assert [gain for _, gain in pairs] == sorted({gain for _, gain in pairs})
    for used, gain in pairs:
        assert any(used == pytest.approx(u, rel=1e-9) and gain == g for u, g in expected)
    if expected:
        # both ends are there: all the gain there is, and the least that gains anything if it fits
        assert pairs[-1][1] == expected[-1][1]
        assert len(pairs) <= points
    for point in found.beside:
        best = max((g for u, g in expected if u <= point.budget * (1 + 1e-9)), default=0)
        assert point.gain <= best


@given(problems(max_layers=3))
@settings(max_examples=20)
def test_points_are_within_the_other_limits_and_priced_as_they_say(problem):
    assume(problem.importance.full_gain > 0)
    for point in frontier(problem, EXACT, "memory", points=4).points:
        assert not point.exceeds
        assert problem.gain(point.plan) == point.gain
        again = priced(problem, "memory", point.plan, "again", "")
        assert (again.used, again.share) == (point.used, point.gain / problem.importance.full_gain)


def test_below_is_the_next_amount():
    assert below("memory_bytes", 1024) == 1023
    assert below("macs", 7.0) == 6
    assert 0.999 < below("latency_s", 1.0) < 1.0


@given(problems(max_layers=2))
@settings(max_examples=5)
def test_what_cannot_be_asked(problem):
    assume(problem.importance.full_gain > 0)
    with pytest.raises(InputError, match="against 'energy'; allowed are memory, macs, latency"):
        frontier(problem, EXACT, "energy")
    with pytest.raises(InputError, match="points is 1"):
        frontier(problem, EXACT, "memory", points=1)
    nothing = problem.within(Budget(memory_bytes=0))
    assert frontier(nothing, EXACT, "memory").points == ()
    assert non_dominated([]) == ()


TASK = ("--device", "stm32f746", "--shots", "1", "--ways", "2")


@pytest.fixture(scope="module")
def command_output(tmp_path_factory):
    """The files of one run and its JSON."""
    folder = tmp_path_factory.mktemp("frontier")
    files = {kind: folder / f"f.{kind}" for kind in ("json", "csv", "svg")}
    options = ["--out", files["json"], "--csv", files["csv"], "--picture", files["svg"]]
    result = CliRunner().invoke(command, [*TASK, "--points", "4", "--json", *map(str, options)])
    assert result.exit_code == 0, result.output
    return files, json.loads(result.stdout)


def test_the_command_says_the_same_everywhere(command_output):
    files, document = command_output
    assert json.loads(files["json"].read_text()) == document
    points = [*document["points"], *document["beside"]]
    rows = list(csv.DictReader(files["csv"].read_text().splitlines()))
    assert [float(row["gain"]) for row in rows] == [point["gain"] for point in points]
    assert [int(row["used"]) for row in rows] == [point["used"] for point in points]
    assert files["svg"].read_text().count("<svg") == 1
    assert {point["kind"] for point in points} == {"exact", "greedy", "sparse-update"}
    labels = [point["label"] for point in points if point["kind"] == "sparse-update"]
    assert labels == [f"{s.size_kb} KB" for s in SCHEMES if s.network == "mcunet-5fps"]


def test_the_command_proves_what_it_draws(command_output):
    _, document = command_output
    points = document["points"]
    assert all(point["proven"] and not point["exceeds"] for point in points)
    assert points == sorted(points, key=lambda point: point["used"])
    for point in document["beside"]:
        for proven in points:
            if point["kind"] == "greedy" and point["budget"] == proven["budget"]:
                assert point["gain"] <= proven["gain"] * (1 + 1e-9)


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["--picture", "f.pdf"], 2, "--picture: f.pdf is no picture"),
        (["--out", "f.svg", "--picture", "f.svg"], 2, "name one file twice"),
        (["--points", "1"], 2, "1 is not in the range"),
        (["--against", "energy"], 2, "'energy' is not one of 'memory', 'macs', 'latency'"),
        (["--memory", "1B"], 1, "No plan within the budgets gains anything"),
    ],
)
def test_the_command_refuses_in_one_line(options, status, said, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["pareto", *TASK, *options]) == status
    captured = capsys.readouterr()
    (line,) = [row for row in captured.err.splitlines() if not row.startswith("costsim: note")]
    assert said in line
    assert captured.out == ""
