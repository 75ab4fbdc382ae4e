"""A workload, what an undisturbed run of it does, and folders to do it in again."""

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from .commands import Ended, Running, Warm
from .workloads import Result, Workload


class Bench:
    """Runs of `work` below `folder`; made, it has seen two that nobody disturbed."""

    def __init__(self, work: Workload, folder: Path, warm: Warm, template: Path) -> None:
        self.work, self.folder, self.warm, self.template = work, folder, warm, template
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.environment = {
            "TMPDIR": str(self.temporary),
            "XDG_CACHE_HOME": str(folder / "cache"),
        }
        self.given = names(self.template)
        self.run_whole(folder / "first")  # fills caches
        begun = time.monotonic()
        self.expected, running = self.run_whole(folder / "whole")
        self.seconds = time.monotonic() - begun
        self.operations = int((running.place / "operations").read_text() or 0)

    def run_whole(self, folder: Path) -> tuple[Result, Running]:
        """From the beginning to the end."""
        running = self.start(self.new(folder))
        ended = running.wait()
        assert ended.status == 0, ended.err
        self.check_left(folder)
        return self.work.result(folder, ended.out), running

    def new(self, folder: Path) -> Path:
        """`folder`, with what the command is given."""
        shutil.copytree(self.template, folder, dirs_exist_ok=True)
        return folder

    def start(
        self,
        folder: Path,
        *,
        again: bool = False,
        dies_at: int = 0,
        environment: Mapping[str, str] = MappingProxyType({}),
        more: Sequence[str] = (),
    ) -> Running:
        """The command, in `folder`."""
        return self.warm.start(
            [*self.work.arguments, *(self.work.again if again else ()), *more],
            folder,
            environment={**self.environment, **environment},
            dies_at=dies_at,
        )

    def check_again(self, folder: Path) -> None:
        """Begun again in `folder` it ends as if nothing had been, and changes nothing of before."""
        keeps = self.work.keeps or _nothing
        kept = keeps(folder)
        ended = self.start(folder, again=True).wait()
        assert ended.status == 0, f"started again: status {ended.status}: {ended.err}"
        self.check_result(folder, ended)
        now = keeps(folder)
        assert {name: now.get(name) for name in kept} == kept, "what was kept is lost or changed"

    def check_result(self, folder: Path, ended: Ended) -> None:
        """It is that of a run that nobody disturbed."""
        assert "Traceback" not in ended.err, ended.err
        found = self.work.result(folder, ended.out)
        assert found == self.expected, f"another result: {_difference(found, self.expected)}"
        self.check_left(folder)

    def check_left(self, folder: Path) -> None:
        """Nothing but results is left, here or in the folder for temporary files."""
        extra = names(folder) - self.given - set(self.work.leaves)
        assert not extra, f"left behind: {sorted(extra)}"
        left = sorted(path.name for path in self.temporary.iterdir())
        assert not left, f"left among temporary files: {left}"


def check_one_line(ended: Ended, *words: str) -> str:
    """A command that could not go on: exit status 2 (or 1), and one line with one of `words`."""
    assert ended.status in (1, 2), f"status {ended.status}: {ended.err}"
    assert "Traceback" not in ended.err, ended.err
    lines = [
        line
        for line in ended.err.splitlines()
        if line.startswith("costsim: ") and not line.startswith(("costsim: note", "costsim: warn"))
    ]
    assert len(lines) == 1, ended.err
    assert not words or any(word in lines[0] for word in words), lines[0]
    return lines[0]


def names(folder: Path) -> set[str]:
    """All files below a folder, compiled modules left out."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def _difference(found: Result, expected: Result) -> str:
    parts = [name for name in {**expected, **found} if found.get(name) != expected.get(name)]
    return "; ".join(f"{n}: {found.get(n)!r:.300} for {expected.get(n)!r:.300}" for n in parts)


def _nothing(folder: Path) -> Result:
    return {}
