"""The comparison study: resumed without loss or repetition, repeatable, robust."""

import json
import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from costsim.solvers import make_solver

from costsim.base.errors import InputError
from costsim.base.units import format_percent
from costsim.cli import main
from costsim.models.networks.shipped import RANDOM
from costsim.report.comparison import render_comparison, to_json
from costsim.studies.engine import ModelChoice, StudyStore, parse_study, run_study
from costsim.studies.solvers import SolverStudies
from costsim.studies.solvers.analysis import SolverFindings, by_tightness, compare, overall
from costsim.studies.solvers.cells import SolverCell, SolverStudy, TaskChoice

TINY = """
solvers: [exact, greedy, none, last-layer]
devices: [stm32f746, jetson-nano]
budgets: [recommended, {memory: 200%, macs: 40%}]
tasks: [{data: digits, seeds: [0, 1], ways: 3, shots: 1}]
settings: {inspect: 4, resolution: 32}
"""
CELLS = 4 * 2 * 2 * 2


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(TINY)
    return path


KIND = SolverStudies(make_solver)


def open_store(path):
    return StudyStore(path, KIND)


def study(text=TINY, **other):
    import yaml

    return parse_study({**yaml.safe_load(text), **other}, "study", KIND)


def in_process(cells, store):
    """Do what a run and its workers do, in this process."""
    done, workshop = store.finished(), KIND.workshop()
    for cell in cells:
        if cell.key not in done:
            computed = workshop.computed(cell, store.shared(cell.shared_key))
            if computed.shared is not None:
                store.keep_shared(cell.shared_key, computed.shared)
            store.write(computed.row)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished study: its cells and its store."""
    cells = study().cells()
    store = open_store(tmp_path_factory.mktemp("study") / "store.sqlite")
    in_process(cells, store)
    return cells, store


def answers(store, cells):
    """The rows without the one column that a clock fills."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in store.rows(cells)]


def keys(cells):
    return [cell.key for cell in cells]


def test_every_cell_has_its_row_and_its_answer(finished):
    cells, store = finished
    rows = store.rows(keys(cells))
    assert len(cells) == len(set(keys(cells))) == len(rows) == CELLS
    assert not [row["reason"] for row in rows if row["status"] == "error"]
    assert {row["status"] for row in rows if row["solver"] == "exact"} <= {"optimal", "infeasible"}
    for row in rows:
        if row["plan"]:
            assert row["backward_macs"] <= row["macs_limit"]
            assert row["memory_bytes"] <= row["memory_limit_bytes"]
            assert 0 < row["fullest"] <= 1


def test_scores_are_computed_once_for_a_model_and_a_task(finished):
    cells, store = finished
    with closing(sqlite3.connect(store.path)) as database, database:
        kept = [row[0] for row in database.execute("SELECT key FROM importances")]
    assert sorted(kept) == sorted({cell.shared_key for cell in cells})
    assert len(kept) == 2


def test_two_runs_are_equal(finished, tmp_path):
    cells, store = finished
    again = open_store(tmp_path / "again.sqlite")
    in_process(cells, again)
    assert answers(again, keys(cells)) == answers(store, keys(cells))
    pages = [to_json(SolverFindings.of(answers_with_time(s, cells))) for s in (store, again)]
    assert pages[0] == pages[1]


def answers_with_time(store, cells):
    return [row | {"seconds": 1.0} for row in store.rows(keys(cells))]


def test_a_broken_cell_takes_no_other_down_and_is_tried_again(tmp_path):
    broken = ModelChoice("no.such.package:factory")
    plan = study(solvers=["greedy"], devices=["jetson-nano"], budgets=["recommended"])
    both = SolverStudy(**{**vars(plan), "models": (broken, ModelChoice("mcunet-5fps"))})
    store = open_store(tmp_path / "store.sqlite")
    in_process(both.cells(), store)
    rows = store.rows(keys(both.cells()))
    assert [row["status"] for row in rows] == ["error"] * 2 + ["feasible"] * 2
    assert "cannot be imported" in rows[0]["reason"]
    assert len(store.finished()) == 2
    retried = {**rows[0], "status": "feasible", "gain": 1.0}
    store.write(retried)
    store.write({**retried, "gain": 2.0})  # what is finished stays
    assert store.rows([rows[0]["key"]])[0]["gain"] == 1.0


def deadly_solver(name, *, time_limit_s=None):
    """Stands for a solver that takes its process with it."""
    if name == "none":
        os.kill(os.getpid(), signal.SIGKILL)
    return make_solver(name, time_limit_s=time_limit_s)


@pytest.mark.slow
def test_a_cell_that_kills_its_process_is_found_and_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "support"))
    plan = study(solvers=["greedy", "none"], devices=["jetson-nano"], budgets=["recommended"])
    plan = SolverStudy(**{**vars(plan), "tasks": plan.tasks[:1]})
    store = open_store(tmp_path / "store.sqlite")
    assert run_study(plan.cells(), store, SolverStudies(deadly_solver), workers=2) == 2
    rows = {row["solver"]: row for row in store.rows(keys(plan.cells()))}
    assert rows["greedy"]["status"] == "feasible"
    assert rows["none"]["status"] == "error"
    assert rows["none"]["reason"] == (
        "the process that computed it died 2 times (killed by signal 9)"
    )


def test_keys_are_of_content_and_not_of_names(tmp_path):
    first, second = tmp_path / "a.bin", tmp_path / "b.bin"
    first.write_bytes(b"weights")
    second.write_bytes(b"weights")
    cells = [
        SolverStudy(models=(ModelChoice("mcunet-5fps", p),)).cells()[0] for p in (first, second)
    ]
    assert cells[0].key == cells[1].key
    other = tmp_path / "c.bin"
    other.write_bytes(b"other weights")
    changed = SolverStudy(models=(ModelChoice("mcunet-5fps", other),)).cells()[0]
    assert changed.key != cells[0].key
    untrained = study(models=[{"model": "mcunet-5fps", "weights": "random"}]).cells()[0]
    assert untrained.model.weights == RANDOM
    assert untrained.key != study(models=["mcunet-5fps"]).cells()[0].key
    assert SolverStudy(tasks=(TaskChoice(seed=1),)).cells()[0].key != SolverStudy().cells()[0].key


def test_solvers_share_a_problem_and_devices_share_scores():
    cells = study().cells()
    assert len({cell.problem_key for cell in cells}) == CELLS // 4
    assert len({cell.shared_key for cell in cells}) == 2
    assert isinstance(cells[0], SolverCell)


BAD = {
    "solver: [exact]": "solver: unknown key; did you mean 'solvers'? allowed are solvers, models",
    "solvers: exact": "solvers: a list of at least one is needed",
    "solvers: []": "solvers: a list of at least one is needed",
    "solvers: [magic]": "solvers[0]: solver 'magic' is unknown; known are greedy",
    "solvers: [3]": "solvers[0]: is 3; text on one line is needed",
    "models: [resnet]": "models[0].model: 'resnet' is unknown; give one of mcunet-5fps",
    "models: [{weights: a.pkl}]": "models[0].model: is missing",
    "models: [{model: mcunet-5fps, weights: gone.pkl}]": "gone.pkl does not exist",
    "models: [{model: mcunet-5fps, wieghts: a}]": "models[0]: wieghts: unknown key",
    "devices: [toaster]": "devices[0]: device 'toaster': neither a file nor a shipped device",
    "budgets: [tight]": "budgets[0]: cannot read 'tight'; give recommended, or NAME=VALUE",
    "budgets: [{memory: 5 parsecs}]": "budgets[0].memory: unknown unit 'parsecs'",
    "budgets: [{memory: true}]": "budgets[0]: each limit needs a value",
    "budgets: [{macs: 150%}]": "budgets[0].macs: '150%' is outside 0% to 100%",
    "budgets: [{accounting: guess}]": "budgets[0].accounting: is 'guess'; allowed are peak",
    "budgets: ['memory=1MB,color=red']": "budgets[0]: color: unknown key",
    "tasks: [{data: gone.tar}]": "gone.tar does not exist",
    "tasks: [{seeds: 3}]": "tasks[0].seeds: a list of at least one is needed",
    "tasks: [{seeds: [-1]}]": "tasks[0].seeds[0]: is -1; a whole number from 0",
    "tasks: [{seeds: [no]}]": "tasks[0].seeds[0]: is False; a whole number",
    "tasks: [{seed: 1, seeds: [2]}]": "tasks[0]: give seed or seeds, not both",
    "tasks: [{shots: 0}]": "tasks[0].shots: is 0; a whole number from 1",
    "settings: {axis: sideways}": "settings.axis: is 'sideways'; allowed are output, input, both",
    "settings: {criterion: taste}": "settings.criterion: criterion 'taste' is unknown; known are",
    "settings: {bias: 1}": "settings.bias: is 1; give true or false",
    "settings: {inspect: most}": "settings.inspect: is 'most'; a whole number",
    "settings: {time-limit: soon}": "settings.time-limit: cannot read 'soon'",
    "settings: 3": "settings: is 3; a mapping of criterion",
    "- a": "is a list; a mapping of solvers",
    "": "is empty; a mapping of solvers",
    "solvers: [a": "is not YAML|expected",
    "solvers: [exact]\nsolvers: [greedy]": "key 'solvers' is given twice",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_input_is_one_line_that_names_the_key(text, tmp_path, capsys):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    assert main(["compare", str(path), "--store", str(tmp_path / "s.sqlite")]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "bad.yaml" in told
    assert any(part in told for part in BAD[text].split("|")), told
    assert not (tmp_path / "s.sqlite").exists()


def test_other_bad_options(tiny, tmp_path, capsys):
    store = str(tmp_path / "s.sqlite")
    for options, told in (
        ([str(tiny), "--seed", "3"], "the file has tasks of its own"),
        (["--weights", "mbv2=x"], "give MODEL=FILE with a --model"),
        (["--budget", "plenty"], "options: budgets[0]: cannot read 'plenty'"),
        ([str(tmp_path / "gone.yaml")], "gone.yaml: cannot be read"),
        (["--report", str(tmp_path / "no" / "x.html")], "does not exist"),
    ):
        assert main(["compare", "--store", store, *options]) == 2
        assert told in capsys.readouterr().err
    (tmp_path / "text.sqlite").write_text("this is no database, " * 100)
    assert main(["compare", "--store", str(tmp_path / "text.sqlite")]) == 2
    assert "cannot be used as a study" in capsys.readouterr().err


def test_a_finished_study_is_shown_without_computing(finished, tiny, tmp_path, capsys):
    _, store = finished
    page, table = tmp_path / "page.html", tmp_path / "rows.csv"
    arguments = ["compare", str(tiny), "--store", str(store.path)]
    assert main([*arguments, "--report", str(page), "--csv", str(table)]) == 0
    shown = capsys.readouterr()
    assert "0 of 32 cells computed" in shown.err
    assert "costsim plan plans one of adam over all samples" in shown.err
    assert "greedy loses" in shown.out
    text = page.read_text()
    assert text.count("<svg") == text.count("</svg>") > 0
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text
    assert "<script" not in text
    lines = table.read_text().splitlines()
    assert len(lines) == CELLS + 1
    assert lines[0].endswith("loss,tightness,agreement")


# What the numbers mean.


def row(problem, solver, gain, *, domain="a", seed=0, status="feasible", channels=(0,), **other):
    plan = [{"name": "l", "axis": "output", "channels": list(channels), "bias": False}]
    return {
        "key": f"{problem}-{solver}",
        "problem": str(problem),
        "solver": solver,
        "model": "m",
        "device": "d",
        "budget": "b",
        "domain": domain,
        "seed": seed,
        "settings": "",
        "status": status,
        "gain": gain,
        "total_gain": 10.0,
        "seconds": 1.0,
        "fullest": 1.0,
        "plan": None if gain is None else json.dumps(plan),
        "reason": "",
        "accuracy": None,
    } | other


def test_loss_agreement_and_tightness_are_what_they_are_called():
    rows = [
        row(1, "exact", 4.0, status="optimal", channels=(0, 1, 2)),
        row(1, "greedy", 3.0, channels=(1, 2, 3)),
        row(1, "none", None, status="infeasible"),
        row(2, "exact", 3.0, status="time_limit"),
        row(2, "greedy", 2.0),
        row(3, "exact", None, status="infeasible"),
        row(3, "greedy", None, status="infeasible"),
        row(4, "exact", 10.0, status="optimal"),
        row(4, "greedy", None, status="error"),
    ]
    found = {(one.row["problem"], one.solver): one for one in compare(rows)}
    assert set(found) == {("1", "exact"), ("1", "greedy"), ("1", "none"), ("4", "exact")}
    greedy = found["1", "greedy"]
    assert greedy.loss == pytest.approx(1 - 3 / 4)
    assert greedy.agreement == pytest.approx(2 / 4)
    assert greedy.tightness == pytest.approx(4 / 10)
    assert found["1", "none"].loss == 1.0
    assert found["1", "exact"].loss == 0.0
    findings = SolverFindings.of(rows)
    assert (findings.problems, findings.proven, findings.without_plan) == (4, 2, 1)
    assert len(findings.errors) == 1
    assert "cannot be said" in findings.answer()[-1]
    assert "no interval" in findings.answer()[0]
    assert next(group.name for group in by_tightness(findings.compared)) == "25 to 50 %"
    page = render_comparison(findings)
    assert page == render_comparison(findings)
    # in two widths: two bars, two dots of answers that are not optimal, four times
    assert page.count('class="mark"') == 2 * (2 + 2 + 4)
    assert "none, no plan within the budgets" in page


def test_a_study_without_a_proof_says_so():
    findings = SolverFindings.of([row(1, "greedy", 3.0)])
    assert "No problem with a proven optimum" in findings.answer()[0]
    assert "<html" in render_comparison(findings)


def few_or_many(tasks, loss):
    """An exact and a greedy answer on one problem of each of so many tasks."""
    found = []
    for seed in range(tasks):
        found.append(row(seed, "exact", 4.0, status="optimal") | {"seed": seed})
        found.append(row(seed, "greedy", 4.0 * (1 - loss)) | {"seed": seed})
    return found


def test_below_five_tasks_nothing_is_claimed():
    """Neither an interval nor that an exact answer is better, or is not."""
    few = SolverFindings.of(few_or_many(4, 0.15))
    (told,) = [group for group in overall(few.compared) if group.solver == "greedy"]
    assert told.loss.half is None
    answer = " ".join(few.answer())
    assert "±" not in answer
    assert "with 95 % confidence" not in answer
    assert "cannot be said" in answer
    assert "at most 4" in answer
    many = SolverFindings.of(few_or_many(5, 0.15))
    assert "An exact answer is worth it over greedy" in many.answer()[-1]
    assert "In no class of 5 tasks or more" in SolverFindings.of(few_or_many(5, 0.0)).answer()[-1]
    groups = to_json(many)["groups"]["All problems"]
    assert {group["loss"]["tasks"] for group in groups} == {5}


def test_the_store_refuses_another_schema(tmp_path):
    path = tmp_path / "s.sqlite"
    open_store(path)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("INSERT INTO meta VALUES ('costsim.comparison/9')")
    with pytest.raises(InputError, match=r"costsim\.comparison/9"):
        open_store(path)


@pytest.mark.slow
def test_a_study_in_accuracy_trains_every_plan_once(tmp_path):
    settings = {"inspect": 3, "resolution": 32, "accuracy": True, "optimizer": "adam"}
    tasks = [{"data": "digits", "seeds": [0, 1], "ways": 2, "shots": 1}]
    asked = study(
        solvers=["exact", "greedy", "none"],
        devices=["jetson-nano"],
        budgets=["recommended"],
        tasks=tasks,
        settings=settings,
    )
    cells = asked.cells()
    store = open_store(tmp_path / "store.sqlite")
    in_process(cells, store)
    rows = store.rows(keys(cells))
    trained = [row for row in rows if row["solver"] != "none"]
    assert not [row["reason"] for row in rows if row["status"] == "error"]
    assert all(0 <= row["accuracy"] <= 1 and row["training_s"] > 0 for row in trained)
    assert all(row["accuracy"] is None for row in rows if row["solver"] == "none")
    # Before training nothing depends on the plan.
    for problem in {row["problem"] for row in trained}:
        assert len({r["accuracy_before"] for r in trained if r["problem"] == problem}) == 1
    (told,) = SolverFindings.of(rows).in_accuracy()
    difference = np.mean(
        [
            ours["accuracy"] - theirs["accuracy"]
            for ours in trained
            for theirs in trained
            if (ours["solver"], theirs["solver"]) == ("exact", "greedy")
            and ours["problem"] == theirs["problem"]
        ]
    )
    assert "over 2 problems of 2 tasks" in told
    assert f"a difference of {format_percent(difference)} (" in told
    assert told + "." in render_comparison(SolverFindings.of(rows))
    before = answers(store, keys(cells))
    in_process(cells, store)
    assert answers(store, keys(cells)) == before
    # Without it the cells are others, so that no row is taken for what it is not.
    plain = study(
        solvers=["exact", "greedy", "none"],
        devices=["jetson-nano"],
        budgets=["recommended"],
        tasks=tasks,
        settings={**settings, "accuracy": False},
    )
    assert not set(keys(cells)) & set(keys(plain.cells()))
