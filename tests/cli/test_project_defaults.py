"""`[tool.costsim]` in `pyproject.toml`: what it says is used, said, and checked."""

import importlib
import json
import re
from pathlib import Path

import click
import pytest

from costsim.base.errors import InputError
from costsim.cli import COMMANDS, main
from costsim.cli.defaults import TYPED_ONLY, Defaults, project_defaults
from costsim.cli.overwriting import ADDED_TO, WRITTEN
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
        (f"[tool.costsim]\nseed = {'9' * 5000}", "pyproject.toml: is no TOML: "),
        (f"[tool.costsim]\nseed = 0x{'f' * 5000}", r"\[tool.costsim\] seed: the number is too l"),
        (f"[tool.costsim]\nx = {'[' * 9000}", "pyproject.toml: is nested too deeply"),
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


def commands() -> list[tuple[str, click.Command]]:
    return [(name, importlib.import_module(f"costsim.cli.{name}").command) for name in COMMANDS]


def opts(command: click.Command) -> set[str]:
    return {name for option in command.params for name in option.opts}


def options() -> list[tuple[str, str, click.Command]]:
    """Every option of every command that takes a value, with its name and its command's."""
    return [
        (name, option.opts[0].removeprefix("--"), command)
        for name, command in commands()
        for option in command.params
        if isinstance(option, click.Option) and not option.is_flag
    ]


def test_no_option_of_any_command_takes_code_from_a_folder(tmp_path: Path) -> None:
    """Also where a file has the very name; an option may know none, and then says so later."""
    (tmp_path / "evil.py:make").touch()
    taken = set()
    for name, key, command in options():
        found = Defaults(tmp_path / "pyproject.toml", {}, {name: {key: "evil.py:make"}})
        try:
            found.of(command)
        except InputError as error:
            assert re.search("is code, which is to be typed|whom to trust", str(error))  # noqa: PT017
        else:
            taken.add((name, key))
    for name, key, command in options():
        option = next(one for one in command.params if f"--{key}" in one.opts)
        assert isinstance(option, click.Option)
        if re.search(r"\.py:\w|the (solver|method|criteri)\w+ below", option.help or ""):
            assert (name, key) not in taken


@pytest.mark.parametrize("key", sorted(TYPED_ONLY))
def test_no_folder_says_where_work_runs_and_whom_to_trust(tmp_path: Path, key: str) -> None:
    having = [(name, command) for name, command in commands() if f"--{key}" in opts(command)]
    assert having
    for name, command in having:
        found = Defaults(tmp_path / "pyproject.toml", {}, {name: {key: "ssh://host"}})
        with pytest.raises(InputError, match="where work runs and whom to trust is to be typed"):
            found.of(command)


def test_what_is_written_stays_in_the_folder_of_the_project(tmp_path: Path) -> None:
    inner = tmp_path / "project"
    inner.mkdir()
    (inner / "link").symlink_to(tmp_path / "elsewhere")
    (inner / "random").symlink_to(tmp_path / "elsewhere")
    writing = [one for one in options() if one[1] in WRITTEN | ADDED_TO]
    assert len(writing) > 30
    for name, key, command in writing:
        for text in ("../elsewhere", "/tmp/elsewhere", "link", "random", "a\0b"):
            found = Defaults(inner / "pyproject.toml", {}, {name: {key: text}})
            with pytest.raises(InputError, match="is not in the project's folder; type it"):
                found.of(command)
        assert Defaults(inner / "pyproject.toml", {}, {name: {key: "a.out"}}).of(command)


def test_nothing_of_a_note_is_obeyed_by_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project(tmp_path, '[tool.costsim]\ndevice = "a\\u001b[31m"\n'))
    assert main(["plan"]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_no_default_speaks_while_a_line_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for text in ('[tool.costsim]\ndevice = "nowhere"\n', "[tool.costsim\n"):
        monkeypatch.chdir(project(tmp_path, text))
        monkeypatch.setenv("_COSTSIM_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_WORDS", "costsim plan --dev")
        monkeypatch.setenv("COMP_CWORD", "2")
        assert main(["plan"]) == 0
        told = capsys.readouterr()
        assert (told.out, told.err) == ("plain,--device\n", "")
