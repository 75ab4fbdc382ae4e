"""`[tool.costsim]` in `pyproject.toml`: what it says is used, said, and checked."""

import json
import re
from pathlib import Path

import click
import pytest

from costsim.base.errors import InputError
from costsim.cli import main
from costsim.cli.defaults import Defaults, project_defaults
from costsim.cli.plan import command as plan


def project(folder: Path, text: str) -> Path:
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    return folder


def test_a_default_is_used_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project(tmp_path, "[tool.costsim.models]\njson = true\n"))
    assert main(["models"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["schema"] == "costsim.models/1"
    assert told.err == "costsim: note: pyproject.toml: --json True\n"
    assert main(["devices"]) == 0
    assert capsys.readouterr().err == ""


def test_what_is_typed_wins_and_is_not_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project(tmp_path, '[tool.costsim]\ndevice = "nowhere"\nsolver = "worst"\n'))
    assert main(["plan", "--device", "nobody"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "costsim: note: pyproject.toml: --solver worst"
    assert told[1].startswith("costsim: device 'nobody'")


def test_the_nearest_table_above_counts_and_its_files_lie_beside_it(tmp_path: Path) -> None:
    project(
        tmp_path,
        '[tool.costsim]\ndevice = "own.yaml"\nweights = "w.pt"\nseed = 3\nlayers = ["a", "b"]\n'
        '[tool.costsim.plan]\ndata = "signs::test"\nexplain = true\n',
    )
    (tmp_path / "own.yaml").touch()
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "pyproject.toml").write_text("[tool.ruff]\n")
    found = project_defaults(inner)
    assert found is not None
    assert found.of(plan) == {
        "devices": [str(tmp_path / "own.yaml")],
        "weights": str(tmp_path / "w.pt"),
        "seed": "3",
        "layers": ["a", "b"],
        "data": str(tmp_path / "signs::test"),
        "explain": True,
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            '[tool.costsim]\ndevise = "x"',
            r"\[tool.costsim\] devise: unknown key; did you mean 'd",
        ),
        ('[tool.costsim.plan]\nmethod = "x"', r"\[tool.costsim.plan\] method: unknown key; "),
        ("[tool.costsim.pln]\nseed = 1", r"\[tool.costsim.pln\]: there is no such command"),
        ("[tool.costsim]\nexplain = 1", r"\[tool.costsim\] explain: is 1; true or false"),
        ("[tool.costsim]\nseed = [1]", r"\[tool.costsim\] seed: is \[1\]; a text or number is"),
        ("[tool.costsim]\nseed = true", r"\[tool.costsim\] seed: is True; a text or number is"),
        ('[tool.costsim]\nmodel = "a.b:c"', r"\[tool.costsim\] model: 'a.b:c' is code"),
        ("[tool.costsim]\nseed = 1.5", r"Invalid value for '--seed'"),
        ("[tool.costsim\n", "pyproject.toml: is no TOML: "),
        ("[tool]\ncostsim = 3", r"\[tool.costsim\]: a table of options is needed"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(
    text: str,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(project(tmp_path, text))
    assert main(["plan", "--device", "nobody"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(told, line)


def test_help_needs_no_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project(tmp_path, "[tool.costsim\n"))
    assert main(["plan", "--help"]) == 0


def test_code_that_a_folder_names_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "evil.py").write_text("open('ran', 'w').close()\n", encoding="utf-8")
    monkeypatch.chdir(project(tmp_path, '[tool.costsim]\nmodel = "evil:make"\n'))
    assert main(["plan", "--device", "jetson-nano"]) == 2
    assert "is code" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


def test_every_key_of_every_command_is_known() -> None:
    empty = Defaults(Path("pyproject.toml"), {}, {"other": {}})
    with pytest.raises(InputError, match="no such command"):
        empty.check({"plan": plan}, ())
    assert isinstance(plan, click.Command)
