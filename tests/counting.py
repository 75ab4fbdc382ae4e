"""Work for processes that need not be a study's: imported by them, so free of torch."""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from costsim.errors import InputError


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
