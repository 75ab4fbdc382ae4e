"""Commands of the campaign: `costsim` in forks of a process that has imported what it needs.

    with Warm(logs) as warm:
        run = warm.start(["train", "plan.json"], folder)
        run.kill()

Each leads a session of its own and has a mark in its environment; by either what it starts is
found. What it prints is kept in files, so that it never waits for a reader.
"""

import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fork_server import Process, server

TESTS = Path(__file__).parents[1]
MARK = "COSTSIM_CAMPAIGN_RUN"
PATIENCE_S = 600.0
"""For a command to end, the time left out in which others had the processors that it wanted."""
LOOK_S = 5.0
"""How often it is looked how long that was."""
LEAVING_S = 30.0
"""For what a killed process had started to notice it."""

CODE = """
import sys
from campaign.operations import count
from costsim.cli import main
count({file!r}, {dies_at})
sys.exit(main({arguments!r}))
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit status, or minus the signal; `peak_bytes` it had at most."""

    status: int
    out: str
    err: str
    peak_bytes: int


@dataclass(frozen=True)
class Running:
    """A command under way, and the folder of what it prints."""

    process: Process
    place: Path

    @property
    def pid(self) -> int:
        """Its number, which is that of its session, too."""
        return self.process.pid

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal, and nothing to what it started."""
        self.process.send_signal(number)

    def tell(self, pid: int, number: int) -> None:
        """Send a signal to one of the processes it started; one that has ended hears nothing."""
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    def over(self) -> bool:
        """Whether it has ended."""
        return self.process.poll() is not None

    def wait(self, seconds: float = PATIENCE_S) -> Ended:
        """Wait for its end; one that does not come is a fault."""
        begun, looked = time.monotonic(), 0.0
        queued: dict[int, float] = {}
        while not self.over():
            waited = time.monotonic() - begun
            if waited > looked + LOOK_S:
                looked = waited
                queued |= {pid: queued_s(pid) for pid in (self.pid, *self.started())}
            if waited - sum(queued.values()) > seconds:
                self.kill_all()
                raise AssertionError(f"hangs: no end after {waited:.0f} s")
            time.sleep(0.005)
        out, err = ((self.place / name).read_text(errors="replace") for name in ("out", "err"))
        return Ended(self.process.wait(), out, err, self.process.peak_bytes)

    def kill_all(self) -> None:
        """End it and all of its session."""
        self.kill()
        for pid in self.started():
            self.tell(pid, signal.SIGKILL)
        self.process.wait()

    def started(self) -> list[int]:
        """The processes it has started, and they, that have not ended."""
        mark = f"{MARK}={self.place}".encode()
        return [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdecimal()
            and int(entry.name) != self.pid
            and _belongs(entry, self.pid, mark)
        ]

    def check_gone(self) -> None:
        """Nothing that it started outlives it for long."""
        end = time.monotonic() + LEAVING_S
        while left := self.started():
            assert time.monotonic() < end, f"processes outlive it: {left}"
            time.sleep(0.01)


def queued_s(pid: int) -> float:
    """Seconds for which a process was ready to run and others had the processors; 0 if unknown."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def _belongs(process: Path, leader: int, mark: bytes) -> bool:
    """Whether a process that has not ended is of a session, or has the mark in its environment."""
    try:
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        if fields[0] in "ZX":
            return False
        return int(fields[3]) == leader or mark in (process / "environ").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return False


class Warm:
    """The server of forks, and a folder for what they print."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.commands = folder, 0

    def __enter__(self) -> Self:
        self.server = server()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing: the server is the process's own, and others may use it."""

    def start(
        self,
        arguments: Sequence[str],
        folder: Path,
        *,
        environment: Mapping[str, str] | None = None,
        dies_at: int = 0,
    ) -> Running:
        """`costsim` with these arguments in `folder`; what it prints is kept apart.

        It kills itself before its file operation number `dies_at`, from 1; 0: never.
        """
        self.commands += 1
        place = self.folder / f"run-{self.commands}"
        place.mkdir()
        path = filter(None, (str(TESTS), os.environ.get("PYTHONPATH")))
        given = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(path),
            **(environment or {}),
            MARK: str(place),
        }
        code = CODE.format(
            file=str(place / "operations"), dies_at=dies_at, arguments=list(arguments)
        )
        with (place / "out").open("wb") as out, (place / "err").open("wb") as err:
            process = self.server.start(
                ["-c", code], cwd=folder, env=given, stdout=out, stderr=err, start_new_session=True
            )
        return Running(process, place)

    def run(self, arguments: Sequence[str], folder: Path, **how: Any) -> Ended:
        """The same, waited for."""
        return self.start(arguments, folder, **how).wait()
