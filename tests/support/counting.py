"""A kind of studies that costs nothing: imported by workers, so free of torch."""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from waiting import until

from costsim.studies.engine import (
    Cell,
    Computed,
    FileReader,
    Kind,
    Study,
    StudyStore,
    Workshop,
    run_study,
)


@dataclass(frozen=True)
class Count(Cell):
    """A number to be counted; with `shares` one in ten makes what the next nine need."""

    number: int
    shares: bool = False

    @property
    def key(self) -> str:
        return str(self.number)

    @property
    def group(self) -> int:
        return self.number // 4

    @property
    def shared_key(self) -> str | None:
        return str(self.number // 10) if self.shares else None

    @property
    def head(self) -> dict[str, Any]:
        return {"key": self.key}


@dataclass(frozen=True)
class Counts(Study[Count]):
    """The numbers up to one."""

    total: int
    shares: bool = False

    def cells(self) -> tuple[Count, ...]:
        return tuple(Count(number, self.shares) for number in range(self.total))


@dataclass(frozen=True)
class Counting(Kind[Count]):
    """Writes down each try of a cell in `folder`.

    At some the process dies, at some only the first time; some fail. No cell ends before `runs`
    runs are at one each, so that none has done everything when another comes.
    """

    folder: Path
    seconds: float = 0.01
    dies: tuple[int, ...] = ()
    once: tuple[int, ...] = ()
    fails: tuple[int, ...] = ()
    runs: int = 1

    schema = "tests/1"
    columns = {"key": "TEXT PRIMARY KEY", "status": "TEXT NOT NULL", "reason": "TEXT"}  # noqa: RUF012
    broken = "failed"
    keys = ("total",)
    doing = "counting"
    shared_table = "documents"

    def study(self, document: object, source: str, folder: Path) -> Counts:
        given = FileReader(source, folder).mapping(document, "", self.keys)
        return Counts(given["total"])

    def workshop(self) -> "Counter":
        return Counter(self)

    def tries(self, name: int | str) -> int:
        """How often a cell was begun, or what cells share made."""
        file = self.folder / f"{name}.tries"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def begin(self, name: int | str) -> None:
        """Write down a try."""
        with (self.folder / f"{name}.tries").open("a") as file:
            file.write(f"{os.getpid()}\n")


class Counter(Workshop[Count]):
    """Counts."""

    def __init__(self, kind: Counting) -> None:
        super().__init__(kind.broken)
        self.kind = kind

    def answer(self, cell: Count, shared: str | None) -> Computed:
        kind, number = self.kind, cell.number
        kind.begin(number)
        if number in kind.dies or (number in kind.once and kind.tries(number) == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if cell.shared_key is not None and shared is None:
            kind.begin(f"shared-{cell.shared_key}")
        if kind.runs > 1:
            (kind.folder / f"{os.getppid()}.run").touch()
            until(lambda: len(list(kind.folder.glob("*.run"))) >= kind.runs)
        time.sleep(kind.seconds)
        if number in kind.fails:
            raise ValueError("as it was\ntold to")
        reason = "" if shared is None else f"of {shared}"
        made = f"document {cell.shared_key}" if cell.shared_key is not None else None
        return Computed({**cell.head, "status": "done", "reason": reason}, made)


def open_store(path: Path) -> StudyStore[Count]:
    """A store of cells that have nothing but a status."""
    return StudyStore(path, Counting(path.parent))


def count(kind: Counting, total: int, workers: int, shares: bool = False) -> int:
    """A run of cells that other runs may share."""
    store = open_store(kind.folder / "store.sqlite")
    return run_study(Counts(total, shares).cells(), store, kind, workers=workers)


if __name__ == "__main__":  # a run in a process of its own; on stdout how many cells it computed
    import counting  # what workers import by name

    folder, runs, total, pause, shares, *failing = sys.argv[1:]
    fails = tuple(int(number) for number in failing)
    kind = counting.Counting(Path(folder), float(pause), fails=fails, runs=int(runs))
    print(counting.count(kind, int(total), 2, shares == "shares"))
