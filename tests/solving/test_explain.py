"""Explanations against all plans there are: each statement is checked by trying everything."""

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from costsim.solvers.brute_force import BruteForce
from costsim.solvers.exact import Exact
from hypothesis import assume, given, settings
from plan_files import chain_example
from problems import problems

from costsim.cli import main
from costsim.ir.plan import UpdatePlan
from costsim.problem.solution import Status
from costsim.solving.explain import Explanation, LeftOut, LimitPrice, Relaxation, explain, little
from costsim.solving.planfile import ExplanationRecord, PlanFile
from costsim.solving.solve import solve

EXACT = Exact()
LEAST = {"memory_bytes": 1, "working_bytes": 1, "macs": 1}


def every_plan(problem):
    """All selections that open anything, one axis a layer."""
    counts = product(*(range(c.size + 1) for c in problem.candidates))
    return np.array([row for row in counts if any(row)])


def best_gain(problem, selections):
    """The greatest gain of the selections within the limits, None if none is."""
    fitting = selections[problem.fits(selections)]
    return float(problem.gains(fitting).max()) if len(fitting) else None


def full_gain(problem):
    """That of the better axis of each layer and of its bias, by the scores themselves."""
    found: dict[tuple[str, bool], float] = {}
    for c in problem.candidates:
        place = c.layer, c.axis == "bias"
        found[place] = max(found.get(place, 0.0), sum(c.gains))
    return sum(found.values())


def asked(problem, limit, allowed):
    return problem.within(replace(problem.budget, **{limit: allowed}))


def small(problem, most=3000):
    return np.prod([c.size + 1.0 for c in problem.candidates]) <= most


@settings(max_examples=35)
@given(problems(max_layers=3))
def test_every_statement_is_what_trying_everything_says(problem):
    assume(small(problem))
    selections = every_plan(problem)
    optimum = best_gain(problem, selections)
    found = explain(problem, solve(problem, EXACT), EXACT)
    assert found.proven
    assert found.optimum == optimum
    if optimum is None:
        check_relaxations(problem, found, selections)
        return
    assert not found.relaxations
    assert found.missed == 0
    for price in found.limits:
        assert price.proven
        without = best_gain(asked(problem, price.limit, None), selections)
        assert price.slack == (without == optimum)
        if price.more is not None:
            more = best_gain(asked(problem, price.limit, price.allowed + price.more), selections)
            assert more > optimum
            if optimum:
                assert price.rise == pytest.approx((more - optimum) / full_gain(problem))
    for left in found.left_out:
        mine = [i for i, c in enumerate(problem.candidates) if c.layer == left.layer]
        axes = {problem.candidates[i].axis for i in mine}
        assert ("bias" in axes) == ("bias" in left.scored)
        assert bool(axes - {"bias"}) == ("channels" in left.scored)
        with_it = best_gain(problem, selections[selections[:, mine].any(axis=1)])
        assert left.why != "overlooked"
        assert (left.why == "no gain") == all(sum(problem.candidates[i].gains) == 0 for i in mine)
        if left.why != "no gain":
            assert (left.why == "does not fit") == (with_it is None)
        if left.why == "worth less" and optimum:
            assert left.loss == pytest.approx((optimum - with_it) / full_gain(problem), abs=1e-9)


def check_relaxations(problem, found, selections):
    assert {entry.limit for entry in found.relaxations} == {n for n, _ in problem.limits()}
    for entry in found.relaxations:
        if entry.least is None:
            assert best_gain(asked(problem, entry.limit, None), selections) is None
            continue
        assert best_gain(asked(problem, entry.limit, entry.least), selections) is not None
        less = entry.least - LEAST.get(entry.limit, 1e-9 * entry.least)
        assert best_gain(asked(problem, entry.limit, less), selections) is None


@settings(max_examples=15)
@given(problems(max_layers=3))
def test_a_worse_plan_is_told_what_it_misses(problem):
    assume(small(problem))
    solution = solve(problem, BruteForce())
    assume(solution.plan is not None and solution.objective > 0)
    nothing = replace(
        solution, status=Status.FEASIBLE, objective=0.0, plan=UpdatePlan(), bound=None
    )
    found = explain(problem, nothing, EXACT)
    assert found.missed == pytest.approx(solution.objective / full_gain(problem))
    overlooked = {left.layer for left in found.left_out if left.why == "overlooked"}
    best = solve(problem, EXACT).plan
    scored = {c.layer for c in problem.candidates if c.axis == "bias"}
    assert overlooked == set(best.by_layer) | (best.biases & scored)


@pytest.mark.parametrize(
    ("limit", "allowed", "amount"),
    [
        ("memory_bytes", 2**20, 2**16),
        ("memory_bytes", 10**6, 2**15),
        ("working_bytes", 3, 1),
        ("macs", 6_500_000, 200_000),
        ("macs", 3, 1),
        ("latency_s", 1.6, 0.1),
        ("energy_j", 0.0, 1e-3),
    ],
)
def test_a_little_is_round_and_little(limit, allowed, amount):
    assert little(limit, allowed) == pytest.approx(amount)


TASK = ("plan", "--device", "stm32f746", "--shots", "1", "--ways", "2", "--explain")

EXPLANATION = Explanation(
    2.0,
    0.25,
    True,
    (
        LimitPrice("memory_bytes", 2**20, False, 2**16, 0.031, True),
        LimitPrice("macs", 6_500_000, True, None, None, True),
        LimitPrice("latency_s", 0.2, False, None, None, False),
    ),
    (
        LeftOut("a", "worth less", 0.2, (), (("memory_bytes", 2048.0), ("macs", 0.0)), 0.01),
        LeftOut("b", "does not fit", 0.1, ("macs",), (("macs", 7e6),)),
        LeftOut("c", "no gain", 0.0),
        LeftOut("d", "overlooked", 0.1),
    ),
    (Relaxation("memory_bytes", 1024, 2048), Relaxation("macs", 10, None)),
)


def test_sentences():
    assert [entry.sentence for entry in EXPLANATION.limits] == [
        "64 KiB more memory than 1 MiB would add 3.10 % of all gain.",
        "The limit on backward MACs is slack: more than 6.5 MMAC would bring nothing.",
        "The limit on latency of a step binds, but no amount more that was tried raised the gain.",
    ]
    assert [entry.sentence for entry in EXPLANATION.left_out] == [
        "a: its channels hold 20.0 % of all gain, the best takes 2 KiB more memory; "
        "the best plan that updates it has 1.00 % of all gain less.",
        "b: does not fit; one channel alone takes backward MACs 7 MMAC "
        "(its channels hold 10.0 % of all gain).",
        "c: every channel's score is 0.",
        "d: the proven optimum updates it (its channels hold 10.0 % of all gain).",
    ]
    assert [entry.sentence for entry in EXPLANATION.relaxations] == [
        "At least 2KiB instead of memory 1 KiB would do.",
        "More than backward MACs 10 MAC would not do, however much.",
    ]


def test_a_bias_is_called_one():
    takes = (("memory_bytes", 64.0),)
    sentences = [
        left.sentence
        for left in (
            LeftOut("a", "worth less", 0.2, (), takes, 0.01, scored="bias", bias_alone=True),
            LeftOut("b", "does not fit", 0.1, ("memory_bytes",), takes, scored="bias",
                    bias_alone=True),
            LeftOut("c", "no gain", 0.0, scored="bias"),
            LeftOut("d", "overlooked", 0.1, scored="bias"),
            LeftOut("e", "worth less", 0.2, (), takes, 0.0, scored="channels and bias"),
            LeftOut("f", "worth less", 0.2, (), takes, 0.0, scored="channels and bias",
                    bias_alone=True),
            LeftOut("g", "no gain", 0.0, scored="channels and bias"),
        )
    ]  # fmt: skip
    assert sentences == [
        "a: its bias holds 20.0 % of all gain and takes 64 B more memory; "
        "the best plan that updates it has 1.00 % of all gain less.",
        "b: does not fit; its bias alone takes memory 64 B (its bias holds 10.0 % of all gain).",
        "c: the score of its bias is 0.",
        "d: the proven optimum updates it (its bias holds 10.0 % of all gain).",
        "e: its channels and bias hold 20.0 % of all gain, the best channel takes 64 B more "
        "memory; a plan that updates it gains as much, not more.",
        "f: its channels and bias hold 20.0 % of all gain, the bias takes 64 B more memory; "
        "a plan that updates it gains as much, not more.",
        "g: the score of its bias and of every channel is 0.",
    ]


def test_a_plan_of_biases_is_explained_as_one(capsys):
    command = (*TASK, "--axis", "bias", "--macs", "5%", "--json", "--resolution", "64")
    assert main(command) == 0
    left_out = json.loads(capsys.readouterr().out)["explanation"]["left_out"]
    assert left_out
    for entry in left_out:
        assert "channel" not in entry["sentence"]
        assert "bias" in entry["sentence"]


def test_a_plan_file_carries_it_only_if_asked():
    plain = chain_example()
    assert "explanation" not in plain.to_json()
    record = ExplanationRecord.model_validate(EXPLANATION.to_json())
    explained = replace(plain, explanation=record)
    document = json.loads(json.dumps(explained.to_json()))
    assert document["explanation"]["limits"][0]["rise"] == 0.031
    assert PlanFile.from_json(document) == explained


def test_the_command_explains(capsys, tmp_path):
    page = tmp_path / "page.html"
    assert main([*TASK, "--report", str(page)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Inspected layers left out" in out
    assert "would" in out
    assert "Why this plan" in page.read_text()


def test_the_command_says_what_would_do(capsys):
    assert main([*TASK, "--memory", "1KiB", "--json"]) == 1
    explanation = json.loads(capsys.readouterr().out)["explanation"]
    assert explanation["optimum"] is None
    least = {entry["limit"]: entry["least"] for entry in explanation["relaxations"]}
    needed = str(least["memory_bytes"])
    assert least["macs"] is None
    assert main([*TASK[:-1], "--memory", f"{needed}B", "--solver", "exact", "--json"]) == 0
    assert main([*TASK[:-1], "--memory", f"{int(needed) - 1}B", "--json"]) == 1
