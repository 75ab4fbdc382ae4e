"""Work for processes that need not be a study's: imported by them, so free of torch."""

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from waiting import until

from costsim.base.errors import InputError
from costsim.studies.engine import CellStore, Claims, run_cells


class Counting:
    """Writes down each try of a cell; at some the process dies, at some only the first time."""

    def __init__(self, folder: Path, dies: Sequence[int] = (), once: Sequence[int] = ()) -> None:
        self.folder, self.dies, self.once = folder, tuple(dies), tuple(once)

    def __call__(self, cell: int) -> None:
        attempts = self.folder / f"{cell}.tries"
        with attempts.open("a") as file:
            file.write(f"{os.getpid()}\n")
        if cell in self.dies or (cell in self.once and self.tries(cell) == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if cell < 0:
            raise InputError("the disk is full")
        time.sleep(0.01)

    def tries(self, cell: int) -> int:
        """How often it was begun."""
        file = self.folder / f"{cell}.tries"
        return len(file.read_text().splitlines()) if file.exists() else 0


KEY_AND_STATUS = {"key": "TEXT PRIMARY KEY", "status": "TEXT NOT NULL"}


def open_store(path: Path) -> CellStore:
    """A store of cells that have nothing but a status."""
    return CellStore(
        path, schema="tests/1", what="count", columns=KEY_AND_STATUS, unfinished="failed"
    )


class Keeping:
    """Writes down each try of a cell as `Counting` does, and keeps a row; some rows say failed.

    No cell ends before `runs` runs are at one each, so that none has done everything when another
    comes.
    """

    def __init__(
        self, folder: Path, seconds: float, fails: Sequence[int] = (), runs: int = 1
    ) -> None:
        self.folder, self.seconds, self.fails = folder, seconds, tuple(fails)
        self.runs = runs
        self.counting = Counting(folder)

    def __call__(self, cell: int) -> None:
        self.counting(cell)
        (self.folder / f"{os.getppid()}.run").touch()
        until(lambda: len(list(self.folder.glob("*.run"))) >= self.runs)
        time.sleep(self.seconds)
        status = "failed" if cell in self.fails else "done"
        open_store(self.folder / "store.sqlite").write({"key": str(cell), "status": status})


def keep(cells: Sequence[int], keeping: Keeping, workers: int) -> int:
    """A run of cells that other runs may share."""
    store = open_store(keeping.folder / "store.sqlite")
    with Claims(store, str) as claims:
        missing = [cell for cell in cells if str(cell) not in store.finished()]
        return run_cells(
            missing, keeping, workers=workers, group_of=lambda cell: cell // 4, died=print,
            claims=claims,
        )  # fmt: skip


if __name__ == "__main__":  # a run in a process of its own; on stdout how many cells it computed
    folder, runs, count, pause, *failing = sys.argv[1:]
    fails = [int(cell) for cell in failing]
    print(keep(range(int(count)), Keeping(Path(folder), float(pause), fails, int(runs)), 2))
