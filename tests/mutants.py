"""Plants wrong lines in a copy of the tree, one at a time, and wants the tests to notice each.

`python tests/mutants.py [WORD...]`: those whose file or line has one of the words, or all. Prints a
table; exit status 1 if a wrong line survives, if a line is no longer there exactly once, or if the
copy fails its tests before anything is planted.
"""

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from planted_lines import MUTANTS, Mutant

ROOT = Path(__file__).parents[1]
COPIED = (
    "costsim",
    "devices",
    "docs",
    "examples",
    "solvers",
    "tests",
    "README.md",
    "pyproject.toml",
)
INSIDE = ("devices", "solvers")
"""Folders that are packages of `costsim` once it is installed."""

MOST_S = 600.0
"""Tests that take longer than this with a wrong line have not noticed it."""


def lines_at(text: str, line: str) -> list[int]:
    """The numbers, from 0, of the lines of `text` that are `line` but for indentation."""
    return [n for n, found in enumerate(text.splitlines()) if found.strip() == line]


def planted(text: str, mutant: Mutant) -> str:
    """`text` with the wrong line; raises `ValueError` unless the right one is there once."""
    lines = text.splitlines(keepends=True)
    (number,) = lines_at(text, mutant.old)
    lines[number] = lines[number].replace(mutant.old, mutant.new)
    return "".join(lines)


@dataclass(frozen=True)
class Outcome:
    """What a run of pytest came to: its exit status, the first test that failed, its last lines."""

    status: int | None
    failed: str | None
    tail: str
    seconds: float

    @property
    def caught(self) -> bool:
        """Whether a test failed: not its file, nor pytest, nor the clock."""
        return self.status == 1 and self.failed is not None


class Copy:
    """A copy of the tree in `folder`, which is what its tests import."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, folder / name)
        # An installation that is editable would add these from the tree itself.
        for name in INSIDE:
            (folder / "costsim" / name).symlink_to(Path("..") / name)

    def check(self) -> None:
        """Raise `RuntimeError` if Python imports the packages from anywhere else."""
        names = ("costsim", *(f"costsim.{name}" for name in INSIDE))
        code = "\n".join(f"import {name}\nprint({name}.__file__)" for name in names)
        told = self._run(["-c", code]).stdout
        wrong = [at for at in told.splitlines() if not Path(at).is_relative_to(self.folder)]
        if wrong or len(told.splitlines()) != len(names):
            raise RuntimeError(f"the copy at {self.folder} is not what is imported: {told}")

    def test(self, tests: Sequence[str], most_s: float | None = None) -> Outcome:
        """Run `tests` up to the first that fails, for `most_s` at most."""
        begun = time.monotonic()
        options = ["-q", "-x", "-n", "0", "-rf", "--tb=line", "-p", "no:cacheprovider"]
        options += ["--hypothesis-profile=mutants"]
        try:
            ran = self._run(["-m", "pytest", *options, *tests], most_s)
        except subprocess.TimeoutExpired:
            return Outcome(None, None, f"no end after {most_s} s", time.monotonic() - begun)
        found = re.search(r"^FAILED (.+?)(?: - .*)?$", ran.stdout, re.MULTILINE)
        tail = "\n".join((ran.stdout + ran.stderr).splitlines()[-10:])
        failed = None if found is None else found.group(1)
        return Outcome(ran.returncode, failed, tail, time.monotonic() - begun)

    def with_planted(self, mutant: Mutant) -> Outcome:
        """Run the tests of `mutant` with its line in the copy, and take it out again."""
        path = self.folder / mutant.file
        text = path.read_text()
        try:
            self._write(path, planted(text, mutant))
            return self.test(mutant.tests, MOST_S)
        finally:
            self._write(path, text)

    def _write(self, path: Path, text: str) -> None:
        """Write a file, and forget what Python compiled of it: times count in whole seconds."""
        path.write_text(text)
        if path.suffix == ".py":
            Path(importlib.util.cache_from_source(path.as_posix())).unlink(missing_ok=True)

    def _run(
        self, arguments: Sequence[str], most_s: float | None = None
    ) -> "subprocess.CompletedProcess[str]":
        env = {**os.environ, "PYTHONPATH": str(self.folder)}
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=most_s,
            check=False,
        )


def row(*cells: object) -> str:
    """One row of the table."""
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def main() -> int:
    """Print the table; see the module."""
    parser = argparse.ArgumentParser(prog="mutants.py", description=__doc__)
    parser.add_argument(
        "words", nargs="*", help="only wrong lines with one of these, or their file"
    )
    words = parser.parse_args().words
    chosen = [
        (number, mutant)
        for number, mutant in enumerate(MUTANTS, 1)
        if not words or any(w in f"{mutant.file} {mutant.old} {mutant.new}" for w in words)
    ]
    gone = [m for _, m in chosen if len(lines_at((ROOT / m.file).read_text(), m.old)) != 1]
    for mutant in gone:
        print(f"{mutant.file}: not there exactly once: {mutant.old}", file=sys.stderr)
    if gone:
        return 1
    with tempfile.TemporaryDirectory(prefix="costsim-mutants-") as folder:
        copy = Copy(Path(folder).resolve())
        copy.check()
        control = copy.test(sorted({test for _, mutant in chosen for test in mutant.tests}))
        if control.status != 0:
            print(f"the copy fails with nothing planted:\n{control.tail}", file=sys.stderr)
            return 1
        print(f"nothing planted: all tests pass, {control.seconds:.0f} s\n")
        print(row("", "file", "line", "planted", "caught by", "s"))
        print(row("---:", "---", "---", "---", "---", "---:"), flush=True)
        survivors = 0
        for number, mutant in chosen:
            outcome = copy.with_planted(mutant)
            by = f"`{outcome.failed}`" if outcome.caught else "**nothing**"
            cells = (mutant.file, f"`{mutant.old}`", f"`{mutant.new}`", by)
            print(row(number, *cells, f"{outcome.seconds:.0f}"), flush=True)
            if not outcome.caught:
                survivors += 1
                print(outcome.tail, file=sys.stderr, flush=True)
    print(f"\n{len(chosen)} planted, {survivors} not caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
