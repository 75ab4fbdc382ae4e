"""What a file says is read on a terminal, never obeyed."""

import ast
import io
import json
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

import costsim.cli
from costsim.cli import main
from costsim.cli.console import Console
from costsim.device import load_device

EVIL = "\x1b[2J\x1b]0;x\x07a\u202eb[/x]:smile:"
READ = "\\x1b[2J\\x1b]0;x"


def test_what_is_not_for_reading_is_escaped_in_any_part() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, color_system="standard", width=200)
    table = Table("head", title=Text(EVIL))
    table.add_row(Text(EVIL, style="bold red"))
    for part in (table, Text(EVIL), "[red]plain[/red]\n\ttext"):
        console.print(part)
    told = file.getvalue()
    assert "\x1b[2J" not in told
    assert "\x07" not in told
    assert "\u202e" not in told
    assert told.count("\\x1b[2J") == 3
    assert "\x1b[31mplain\x1b[0m\n" in told, "rich's own colours stay"


def test_nothing_of_a_plan_or_a_device_file_reaches_the_terminal_as_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    device = load_device("stm32f746").to_json() | {"title": EVIL, "description": EVIL}
    Path("dev.yaml").write_text(json.dumps(device))
    words = ["plan", "--device", "stm32f746", "--solver", "none"]
    assert main([*words, "--out", "plan.json"]) == 0
    plan = json.loads(Path("plan.json").read_text())
    plan["model"]["name"] = plan["device"]["title"] = plan["solver"]["name"] = EVIL
    Path("evil.json").write_text(json.dumps(plan))
    capsys.readouterr()
    for asked, status in (
        (["show", "evil.json"], 0),
        (["diff", "plan.json", "evil.json"], 1),
        (["devices", "dev.yaml"], 0),
        (["plan", "--device", "dev.yaml", "--solver", "none"], 0),
    ):
        assert main(asked) == status
        told = capsys.readouterr()
        assert "\x1b" not in told.out + told.err
        assert READ in told.out, asked


def test_every_command_prints_by_such_a_console() -> None:
    folder = Path(str(costsim.cli.__file__)).parent
    taken = [
        file.name
        for file in folder.glob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        and node.module == "rich.console"
        and "Console" in {name.name for name in node.names}
    ]
    assert set(taken) == {"progress.py"}, "which shows what is done, on stderr"
