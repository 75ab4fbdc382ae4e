"""Whoever works on a cell: a process, as another one may ask whether it is still there."""

import os
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True)
class Owner:
    """One process for all time: `pid` is given again, but not in one `place` with one `started`.

    `place` is where pids mean the same: one boot of one machine, and one namespace in it.
    `started` is empty where the system does not tell.
    """

    place: str
    pid: int
    started: str = ""

    @classmethod
    def of(cls, pid: int) -> Self:
        """The process that has `pid` here now."""
        return cls(_place(), pid, _started(pid) or "")

    @classmethod
    def parse(cls, text: str) -> Self:
        """What `str` of one says."""
        pid, started, place = text.split(" ", 2)
        return cls(place, int(pid), started.strip("-"))

    def __str__(self) -> str:
        return f"{self.pid} {self.started or '-'} {self.place}"

    def lives(self) -> bool | None:
        """Whether it is there; None where that cannot be told from here."""
        if self.place != _place() or os.name != "posix":
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        if not self.started:
            return None
        return _started(self.pid) == self.started


@cache
def _place() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return platform.node()


def _started(pid: int) -> str | None:
    """Ticks from boot to the start of a process that has not ended; of a zombie none."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if state in "ZX" else fields[18]
