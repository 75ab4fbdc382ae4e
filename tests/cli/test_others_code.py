"""Solvers, criteria, methods and models of a person's own that print, fail or give what is none."""

import ast
import json
from pathlib import Path

import pytest

from costsim.cli import main

ROOT = Path(__file__).parents[2]

NET = """
import torch
from torch import nn

print("imported")

class Net(nn.Module):
    resolution = 8
    def __init__(self):
        super().__init__()
        print("made")
        self.one = nn.Conv2d(3, 4, 3, padding=1)
        self.two = nn.Conv2d(4, 6, 3, padding=1)

    def forward(self, x):
        print("run")
        return torch.relu(self.two(torch.relu(self.one(x)))).mean((2, 3))

class Ends(Net):
    def forward(self, x):
        raise SystemExit(0)
"""

OTHERS = """
import dataclasses
import sys
import numpy as np
from costsim.learning.adaptation.method import Method
from costsim.problem.solution import Answer, Status
from costsim.run.criteria.base import Criterion
from costsim.solvers.greedy import Greedy

print("imported")

class Solver:
    name = "mine"
    status = bound = plan = None
    def __call__(self, problem):
        print("asked")
        found = Greedy()(problem)
        return dataclasses.replace(found, **self.said(found))
    def said(self, found):
        return {}

class Ends(Solver):
    def said(self, found): sys.exit(0)
class Nothing(Solver):
    def __call__(self, problem): return None
class NoNumber(Solver):
    def said(self, found): return {"bound": float("nan")}
class Words(Solver):
    def said(self, found): return {"bound": "large"}
class Best(Solver):
    def said(self, found): return {"status": "best"}
class NoPlan(Solver):
    def said(self, found): return {"plan": None, "status": Status.OPTIMAL}
class Reason(Solver):
    def said(self, found): return {"reason": 3}
class Named(Solver):
    name = 3
class Gives(Solver):
    def __call__(self, problem): return Answer(None, Status.INFEASIBLE, float("inf"))

def ones(request):
    print("scoring")
    return {one: np.ones(request.graph.channels(*one)) for one in request.targets}
def none(request): return None
def few(request): return {}
def square(request): return {one: scores[:, None] for one, scores in ones(request).items()}
def words(request): return {one: scores.astype(str) for one, scores in ones(request).items()}
def huge(request): return {one: scores * 1e308 for one, scores in ones(request).items()}
def negative(request): return {one: -scores for one, scores in ones(request).items()}
def ends(request): sys.exit(0)
def fails(request): return 1 / 0
class Nameless(Criterion):
    def channel_scores(self, request): return ones(request)

@dataclasses.dataclass(frozen=True)
class Chooses(Method):
    learning_rate: object = 0.1
    name = "mine"
    def choose(self, situation): return None
@dataclasses.dataclass(frozen=True)
class Fast(Chooses):
    learning_rate: object = "fast"
@dataclasses.dataclass(frozen=True)
class Fails(Chooses):
    def choose(self, situation): sys.exit(0)
"""

PLAN = ["plan", "--device", "jetson-nano", "--model", "net.py:Net", "--memory", "64KiB"]


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.py").write_text(NET, encoding="utf-8")
    (tmp_path / "others.py").write_text(OTHERS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("scripts")
def test_what_others_print_is_no_part_of_a_result(
    capsys: pytest.CaptureFixture[str],
) -> None:
    own = ["--solver", "others.py:Solver", "--criterion", "others.py:ones"]
    for words in (
        [*PLAN, *own, "--json", "--out", "plan.json"],
        ["show", "plan.json", "--json", "--report", "plan.html"],
        ["inspect", "net.py:Net", "--json"],
        ["train", "plan.json", "--iterations", "1", "--out", "patch.safetensors", "--json"],
        ["apply", "patch.safetensors", "--model", "net.py:Net", "--out", "w.st", "--json"],
        ["adapt", "--device", "jetson-nano", "--model", "net.py:Net", "--json"],
    ):
        assert main(words) == 0
        told = capsys.readouterr()
        assert json.loads(told.out)["schema"].startswith("costsim.")
        assert "run" in told.err.splitlines(), words


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--solver others.py:Ends", "solver mine failed: SystemExit: 0"),
        ("--solver others.py:Nothing", "solver mine answers with None; a costsim.problem.sol"),
        ("--solver others.py:NoNumber", "the bound nan; a number or None is needed"),
        ("--solver others.py:Words", "the bound 'large'; a number or None is needed"),
        ("--solver others.py:Best", "the status 'best'; one of costsim.problem.solution.Status"),
        ("--solver others.py:NoPlan", "no plan and the status optimal, which do not go together"),
        ("--solver others.py:Reason", "the reason 3; a text is needed"),
        ("--solver others.py:Named", "solver 'others.py:Named': its name is 3; a text is needed"),
        ("--criterion others.py:none", "criterion none gives None; scores by layer and axis"),
        ("--criterion others.py:few", "criterion few gives no scores of ('one', 'output')"),
        ("--criterion others.py:square", "for ('one', 'output'); numbers, one a channel"),
        ("--criterion others.py:words", "for ('one', 'output'); numbers, one a channel"),
        ("--criterion others.py:huge", "is 1e+308; a number from 0 to 1e+200 is needed"),
        ("--criterion others.py:negative", "is -1.0; a number from 0 to 1e+200 is needed"),
        ("--criterion others.py:ends", "criterion ends failed: SystemExit: 0"),
        ("--criterion others.py:fails", "criterion fails failed: ZeroDivisionError: division by"),
        ("--criterion others.py:Nameless", "its name is None; a text is needed"),
        ("--model net.py:Ends", "the model cannot be traced"),
    ],
)
@pytest.mark.parametrize("accounting", ["peak", "arena"])
def test_what_is_of_no_use_is_refused_in_one_line(
    words: str, told: str, accounting: str, scripts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = scripts / "plan.json"
    given = [*PLAN, *words.split(), "--accounting", accounting, "--out", str(out), "--json"]
    assert main(given) == 2
    found = capsys.readouterr()
    last = found.err.splitlines()[-1]
    assert last.startswith("costsim: ")
    assert told in last
    assert found.out == ""
    assert not out.exists()


@pytest.mark.usefixtures("scripts")
def test_a_solver_that_finds_nothing_says_nothing_of_the_budgets(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*PLAN, "--solver", "others.py:Gives", "--json"]) == 1
    found = capsys.readouterr()
    assert "the solver found none, though single channels are within them" in found.err
    assert json.loads(found.out)["solver"]["bound"] is None


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ("Chooses", "method mine chooses None; a Choice is needed"),
        ("Fast", "learning rate is 'fast'; allowed is 0 to 1e37"),
        ("Fails", "method mine failed: SystemExit: 0"),
    ],
)
@pytest.mark.usefixtures("scripts")
def test_a_method_of_no_use_is_refused_in_one_line(
    method: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["adapt", "--device", "jetson-nano", "--model", "net.py:Net"]
    assert main([*words, "--method", f"others.py:{method}"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"costsim: {told}"


def test_results_are_printed_when_the_work_is_over() -> None:
    """While it lasts stdout is kept from others' code, and so from a command's own words."""
    kept = {"progress_on_stderr", "lines_on_stderr"}
    for file in sorted((ROOT / "costsim" / "cli").glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.With) and any(
                isinstance(one.context_expr, ast.Call)
                and getattr(one.context_expr.func, "id", "") in kept
                for one in node.items
            ):
                for call in ast.walk(node):
                    if isinstance(call, ast.Call):
                        said = ast.unparse(call)
                        printed = said.startswith(("click.echo(", "print(", "Console("))
                        to_stdout = "sys.stderr" not in said and "err=True" not in said
                        assert not (printed and to_stdout), f"{file.name}:{call.lineno}"
