"""`costsim show` and `costsim diff`: a plan as when it was made, and two beside each other."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from plan_files import chain_example

from costsim.cli import main
from costsim.ir.plan import UpdatePlan
from costsim.report.difference import differences
from costsim.solving.planfile import PlanFile, read_plan, write_plan

PLAN = (
    "plan", "--device", "pi-zero-2", "--model", "mbv2-w0.35", "--resolution", "32",
    "--inspect", "4", "--ways", "2", "--shots", "2",
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan file of a small network, and what `plan` printed beside it."""
    path = tmp_path_factory.mktemp("plans") / "plan.json"
    assert main([*PLAN, "--out", str(path), "--report", str(path.with_suffix(".html"))]) == 0
    return path


def test_a_plan_is_shown_as_when_it_was_made(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*PLAN, "--out", str(tmp_path / "again.json")]) == 0
    printed = capsys.readouterr().out
    assert main(["show", str(tmp_path / "again.json")]) == 0
    assert capsys.readouterr().out == printed
    assert main(["show", str(made), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(made.read_text())


def test_its_page_is_that_of_the_plan_without_scores(made: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert main(["show", str(made), "--report", str(page)]) == 0
    shown, drawn = page.read_text(), made.with_suffix(".html").read_text()
    assert "Heights are the square root" in drawn
    assert "Heights are the square root" not in shown
    for text in ("whole adaptation", "mbv2-w0.35", "<svg"):
        assert text in shown


def test_budgets_of_the_whole_are_on_the_page_and_in_the_difference(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limited, page = tmp_path / "limited.json", tmp_path / "page.html"
    limits = ("--task-time", "9min", "--storage", "1GB")
    assert main([*PLAN, *limits, "--out", str(limited), "--report", str(page)]) == 0
    assert "budget of the task" in capsys.readouterr().out
    assert "Budgets of the task" in page.read_text()
    assert read_plan(limited).task_budget.latency_s == 540
    assert main(["diff", str(made), str(limited)]) == 1
    told = capsys.readouterr().out
    assert "budgets.task.latency_s" in told
    assert "predicted" not in told  # they bind nothing


@pytest.mark.parametrize("text", ["{}", "[]", '{"schema": "costsim.plan/1"}', "no plan"])
@pytest.mark.parametrize("command", ["show", "diff"])
def test_what_is_no_plan_is_told_in_one_line(
    command: str, text: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text(text)
    given = [str(bad)] if command == "show" else [str(made), str(bad)]
    assert main([command, *given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "bad.json" in line


def keys(left: PlanFile, right: PlanFile) -> set[str]:
    return {one.key for one in differences(left, right)}


def test_what_differs_is_told_and_nothing_else() -> None:
    file = chain_example()
    slower = replace(file, solver=file.solver.model_copy(update={"seconds": 9.0}))
    assert keys(file, slower) == set()
    other = replace(
        file,
        recipe=replace(file.recipe, image_interval=2),
        task=file.task.model_copy(update={"shots": 9}),
        seed=5,
    )
    assert keys(file, other) == {"recipe.image_interval", "task.shots", "seed"}
    (subset,) = file.plan.subsets
    moved = replace(subset, channels=tuple(c + 1 for c in subset.channels))
    chosen = replace(file, plan=UpdatePlan((moved,), file.plan.biases))
    (found,) = differences(file, chosen)
    assert (found.part, found.key) == ("chosen", subset.layer)
    both = len(set(subset.channels) & set(moved.channels))
    assert f"({both} in both)" in found.left
    without = replace(file, plan=UpdatePlan((), file.plan.biases))
    (found,) = differences(file, without)
    assert found.right in (None, "bias")


def test_the_command_says_whether_and_what(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diff", str(made), str(made)]) == 0
    assert capsys.readouterr().out == "No difference.\n"
    file, other = read_plan(made), tmp_path / "other.json"
    assert file.predicted is not None
    macs = file.predicted.macs.model_copy(update={"forward": 12_345_000})
    write_plan(other, replace(file, predicted=file.predicted.model_copy(update={"macs": macs})))
    assert main(["diff", str(made), str(other)]) == 1
    printed = capsys.readouterr().out
    assert "12.3 MMAC" in printed
    assert "backward" not in printed
    assert main(["diff", str(made), str(other), "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)["differences"]
    assert (found["key"], found["right"]) == ("predicted.macs.forward", 12_345_000)
