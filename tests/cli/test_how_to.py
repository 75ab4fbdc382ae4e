"""The how-tos run as they are written, and what they add stands beside what there is."""

import json
import re
import shlex
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
from costsim.solvers import SOLVERS, make_solver

from costsim.base import registry, trust
from costsim.base.errors import InputError
from costsim.cli import main
from costsim.learning.methods import make_method
from costsim.run.criteria import CRITERIA

HOW_TOS = Path(__file__).parents[2] / "docs" / "how-to"
MOST_LINES = 48


def blocks(text: str, language: str) -> list[str]:
    """The blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def written(name: str, folder: Path) -> list[str]:
    """Save the files of a how-to as it says, and give its commands."""
    text = (HOW_TOS / f"{name}.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    for language, suffix in (("python", "py"), ("yaml", "yaml")):
        for content in blocks(text, language):
            (file,) = set(
                re.findall(rf"[Ss]ave this as `(\w+\.{suffix})`|As `(\w+\.{suffix})`", text)
            )
            (folder / "".join(file)).write_text(content)
    return "".join(blocks(text, "console")).splitlines()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own in which nobody has named anything yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(trust, "NAMED_HERE", set())
    return tmp_path


def test_every_how_to_is_run_here() -> None:
    """Those of code; blocks of the others are run by `test_documentation`."""
    assert {"solver", "criterion", "method"} <= {path.stem for path in HOW_TOS.glob("*.md")}


def test_a_solver_of_ones_own(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, compare = written("solver", here)
    assert main([*shlex.split(plan)[1:], "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["solver"]["name"] == "richest"
    assert document["layers"]
    assert main([*shlex.split(compare)[1:], "--jobs", "1", "--csv", "rows.csv"]) == 0
    assert "my_solver.py:Richest" in capsys.readouterr().out
    rows = Path("rows.csv").read_text()
    assert rows.count("my_solver.py:Richest") == 1
    script = here / "my_solver.py"
    script.write_text(script.read_text().replace("most_layers: int = 4", "most_layers: int = 1"))
    assert main([*shlex.split(compare)[1:], "--jobs", "1", "--json"]) == 0
    assert "1 of 2 cells computed" in capsys.readouterr().err, (
        "code that changed is computed anew, nothing else"
    )


@pytest.mark.usefixtures("capsys")
def test_a_criterion_of_ones_own(here: Path) -> None:
    plan, compare = written("criterion", here)
    assert main([*shlex.split(plan)[1:], "--out", "p.json"]) == 0
    found = json.loads(Path("p.json").read_text())["importance"]
    assert found["criterion"] == "my_criterion.py:signs(power=2)"
    asked = [*shlex.split(compare)[1:], "--jobs", "1", "--solver", "greedy", "--csv", "rows.csv"]
    assert main(asked) == 0
    assert "criterion=my_criterion.py:signs" in Path("rows.csv").read_text()


def test_a_method_of_ones_own(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapt, study = written("method", here)
    assert main(shlex.split(adapt)[1:]) == 0
    assert "LastBiases (3)" in capsys.readouterr().out
    trust.NAMED_HERE.clear()
    untrusted = [word for word in shlex.split(study)[1:] if "my_method" not in word]
    untrusted.remove("--trust")
    assert main(untrusted) == 2
    told = capsys.readouterr().err
    assert "methods[1].method: is for" in told
    assert "name it with --trust to run it" in told
    assert main(shlex.split(study)[1:]) == 0
    assert "biases" in capsys.readouterr().out


def test_what_is_of_another_kind_is_refused_in_one_line(here: Path) -> None:
    (here / "odd.py").write_text("class Odd: ...\ndef make(): raise ValueError('no\\nmore')\n")
    with pytest.raises(InputError, match=r"^solver 'odd\.py:Odd': is a Odd; one of .*Solver is"):
        make_solver("odd.py:Odd")
    with pytest.raises(InputError, match=r"^method 'odd\.py:Odd': is a Odd; one of .*Method is"):
        make_method("odd.py:Odd")
    with pytest.raises(InputError, match=r"^criterion 'odd\.py:Odd': is a Odd"):
        CRITERIA.make("odd.py:Odd")
    with pytest.raises(InputError, match=r"^solver 'odd\.py:Odd\(a=1\)': fails: TypeError"):
        make_solver("odd.py:Odd(a=1)")
    with pytest.raises(
        InputError, match=r"did you mean 'greedy'\? known are greedy.*, and code of yours"
    ):
        make_solver("gready")


def test_packages_add_by_entry_points(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed ones; here as their metadata says them."""
    written("solver", here)
    monkeypatch.syspath_prepend(str(here))
    group = "costsim.solvers"
    added = EntryPoints(
        [
            EntryPoint("richest", "my_solver:Richest", group),
            EntryPoint("broken", "my_solver:Absent", group),
            EntryPoint("exact", "my_solver:Richest", group),
        ]
    )
    monkeypatch.setattr(registry, "entry_points", lambda group: added.select(group=group))
    assert make_solver("richest").name == "richest"
    assert make_solver("exact").name == "exact", "no package takes a name that is here"
    assert "richest" in SOLVERS.known
    with pytest.raises(InputError, match=r"solver 'broken': my_solver:Absent cannot be loaded"):
        make_solver("broken")
