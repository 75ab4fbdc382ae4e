"""What README and documentation tell a person to type works as written.

Every block of commands is one of two kinds: it is run, page by page, each page in an empty folder
of its own, from its first block to its last; or the line before it says `<!-- not run: why -->`.
In both kinds every command and option must exist.
"""

import importlib
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
import yaml

from costsim.cli import COMMANDS, main
from costsim.studies.engine import read_study
from costsim.studies.methods import MethodStudies

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md")))
BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<why>.+) -->\n)?^```(?P<language>console|sh|python)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
QUICK = ("docs/reference/api.md",)
"""Pages that run in seconds; the others are for the long suite."""

ELSEWHERE = ("README.md", "docs/package.md", "CONTRIBUTING.md")
"""Pages whose blocks set up an environment, which is what CI and `test_packaging` run."""


@dataclass(frozen=True)
class Block:
    """A block of commands; `why` it is not run, if it is not."""

    language: str
    text: str
    why: str | None


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [Block(one["language"], one["text"], one["why"]) for one in found]


def run_blocks(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.why is None]


RUN = [
    pytest.param(page, id=name(page), marks=() if name(page) in QUICK else pytest.mark.slow)
    for page in PAGES
    if name(page) not in ELSEWHERE and run_blocks(page)
]


@pytest.mark.parametrize("page", RUN)
def test_the_blocks_of_a_page_run_one_after_another(page: Path, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }
    folder = tmp_path / "empty"
    folder.mkdir()
    for block in run_blocks(page):
        python = block.language == "python"
        command = [sys.executable, "-c"] if python else ["bash", "-euo", "pipefail", "-c"]
        done = subprocess.run(
            [*command, block.text], capture_output=True, text=True, cwd=folder, env=environment
        )
        assert done.returncode == 0, f"{block.text}\n{done.stderr}"


def typed(page: Path) -> Iterator[list[str]]:
    """The words of every costsim command of a page, in blocks and in tables."""
    text = page.read_text(encoding="utf-8")
    in_blocks = "\n".join(b.text for b in blocks(page) if b.language != "python")
    lines = in_blocks.replace("\\\n", " ").splitlines()
    lines += re.findall(r"\| `(costsim [^`]+)` \|", text)
    for line in lines:
        if re.match(r"(\.venv/bin/)?costsim ", line):
            yield shlex.split(line, comments=True)[1:]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_and_option_exists(page: Path) -> None:
    for words in typed(page):
        if words[0].startswith("-"):
            continue
        assert words[0] in COMMANDS, words
        command = importlib.import_module(f"costsim.cli.{words[0]}").command
        arguments = [word for word in words[1:] if word != "..."]
        command.make_parser(click.Context(command)).parse_args(arguments)


def test_commands_are_found_where_pages_have_them() -> None:
    assert len(list(typed(ROOT / "README.md"))) > 9
    assert sum(len(list(typed(page))) for page in PAGES) > 40


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists(), target


def test_a_page_of_the_package_index_has_no_relative_link() -> None:
    text = (DOCS / "package.md").read_text(encoding="utf-8")
    assert not re.findall(r"\]\((?!https?:)[^)]*\)", text)
    assert "devices/" not in text  # what a wheel does not have


def test_the_readme_is_a_page_long() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_study_file_of_the_reference_is_one(tmp_path: Path) -> None:
    text = (DOCS / "reference" / "study-file.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    file = tmp_path / "study.yaml"
    file.write_text(block, encoding="utf-8")
    assert read_study(file, MethodStudies()).cells()
    told = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    from costsim.studies.methods.spec import KEYS as OF_METHODS
    from costsim.studies.solvers.spec import KEYS as OF_SOLVERS

    assert told == {*OF_METHODS, *OF_SOLVERS}
    assert set(yaml.safe_load(block)) <= {*OF_METHODS}


def test_the_reference_of_the_plan_file_names_every_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "plan.json"
    small = ["plan", "--device", "jetson-nano", "--resolution", "32", "--solver", "last-layer"]
    assert main([*small, "--out", str(file)]) in (0, 1)
    capsys.readouterr()
    plan = json.loads(file.read_text(encoding="utf-8"))
    text = (DOCS / "reference" / "plan-file.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+)`", text))
    parts = ("model", "device", "task", "recipe", "step", "budgets", "solver", "importance")
    wanted = {*plan, *(key for part in parts for key in plan[part]), *plan["versions"]}
    assert wanted - named == set()


def test_every_public_name_has_a_place_in_the_reference() -> None:
    hooks = runpy.run_path(str(DOCS / "hooks.py"))
    costsim = importlib.import_module("costsim")
    written = hooks["on_page_markdown"]((DOCS / "reference" / "api.md").read_text(encoding="utf-8"))
    told = {line.rpartition(".")[2] for line in written.splitlines() if line.startswith("::: ")}
    assert told == set(costsim.__all__)
    assert all(f"### costsim {name}" in hooks["help_texts"]() for name in COMMANDS)


@pytest.mark.slow
def test_the_pages_build_strictly(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the extra costsim[docs] is not installed")
    pytest.importorskip("material", reason="the extra costsim[docs] is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "reference" / "api.html").read_text(encoding="utf-8")
    assert "make_plan" in page
    assert not re.search(r"(src|href)=\"https?://(fonts|cdn|unpkg)", page)
