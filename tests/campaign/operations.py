"""The operations of a process that change a file, counted, and its death before one of them."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

CHANGING = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink",
            "os.truncate", "sqlite3.connect")  # fmt: skip


class _Counter:
    """An audit hook that ends this process before one of the operations that change a file."""

    def __init__(self, file: Path, dies_at: int) -> None:
        self.count, self.dies_at = 0, dies_at
        self.handle = os.open(file, os.O_CREAT | os.O_WRONLY)

    def __call__(self, event: str, given: tuple[Any, ...]) -> None:
        if event == "open":
            _, mode, flags = given
            writes = bool(flags & (os.O_WRONLY | os.O_RDWR)) or any(
                c in (mode or "") for c in "wax+"
            )
            if not writes:
                return
        elif event not in CHANGING:
            return
        self.count += 1
        os.pwrite(self.handle, str(self.count).encode(), 0)
        if self.count == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)


def count(file: str, dies_at: int) -> None:
    """Count those of this process from now on in a file; it dies before number `dies_at`."""
    sys.addaudithook(_Counter(Path(file), dies_at))
