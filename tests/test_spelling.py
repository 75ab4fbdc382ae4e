"""One concept has one spelling, in code, files, help and prose; a percentage is written one way."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
THIS = Path(__file__).name
HISTORY = "CHANGELOG.md"
"""What was said of earlier versions stays as it was."""

OTHER = {"optimi" + "ser": "optimizer", "program" + r"me(?![dr])": "program"}
"""What is not written, and what is written instead."""


def files(*folders: str) -> list[Path]:
    """The tracked texts, in these folders or anywhere."""
    if not (ROOT / ".git").exists():
        pytest.skip("no repository here: nothing says which files are tracked")
    listed = subprocess.run(
        ["git", "ls-files", *folders], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split("\n")
    kinds = (".py", ".md", ".yaml", ".toml", ".html", ".css", ".c", ".h", "Makefile")
    return [
        ROOT / name
        for name in listed
        if name.endswith(kinds) and name != HISTORY and not name.endswith(THIS)
    ]


@pytest.mark.parametrize("other", OTHER)
def test_there_is_one_spelling(other: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in files()
        for match in re.finditer(other, path.read_text(encoding="utf-8"), re.IGNORECASE)
    ]
    assert not found, f"write {OTHER[other]}: {found}"


def test_a_share_is_written_by_one_function() -> None:
    """`format_percent`, in tables and sentences; names of methods have a form of their own."""
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in files("costsim", "solvers")
        if path.name != "tinytl.py"
        for match in re.finditer(r"\{[^{}\n]*:[+.]*\d*%\}", path.read_text(encoding="utf-8"))
    ]
    assert not found
