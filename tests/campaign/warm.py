"""Real processes of the command line that start at once: forks of one that has imported torch.

    with Warm(logs) as warm:
        run = warm.start(["train", "plan.json"], folder)
        run.kill()

What is forked has run nothing yet, calls `costsim.cli.main` and leaves with what it returns. It
leads a session of its own and has a mark in its environment; by either what it starts is found.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

TESTS = Path(__file__).parents[1]
MARK = "COSTSIM_CAMPAIGN_RUN"
PATIENCE_S = 600.0
"""For a command to end, the time left out in which others had the processors that it wanted."""
LOOK_S = 5.0
"""How often it is looked how long that was."""
LEAVING_S = 30.0
"""For what a killed process had started to notice it."""


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit status, or minus the signal; `peak_bytes` it had at most."""

    status: int
    out: str
    err: str
    peak_bytes: int


@dataclass(frozen=True)
class Running:
    """A command under way; its pid is not given again until it was waited for."""

    warm: "Warm"
    pid: int
    place: Path

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal, and nothing to what it started."""
        os.kill(self.pid, number)

    def tell(self, pid: int, number: int) -> None:
        """Send a signal to one of the processes it started; one that has ended hears nothing."""
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    def over(self) -> bool:
        """Whether it has ended."""
        return bool(self.warm.ask({"look": self.pid})["ended"])

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
        reaped = self.warm.ask({"reap": self.pid})
        return Ended(int(reaped["status"]), out, err, int(reaped["peak_bytes"]))

    def kill_all(self) -> None:
        """End it and all of its session."""
        for pid in (self.pid, *self.started()):
            self.tell(pid, signal.SIGKILL)
        while not self.over():
            time.sleep(0.005)
        self.warm.ask({"reap": self.pid})

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
    """The process that is forked, and the way to ask it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.commands = folder, 0

    def __enter__(self) -> Self:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH")))),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "campaign.warm"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self.process.stdin is not None
        with self.process:  # which closes its pipes and waits for it
            self.process.stdin.close()

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """One question and its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(question), file=self.process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

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
        for name in ("out", "err"):  # it may be killed before it opens them
            (place / name).touch()
        asked = {
            "arguments": list(arguments),
            "folder": str(folder),
            "place": str(place),
            "environment": {**(environment or {}), MARK: str(place)},
            "dies_at": dies_at,
        }
        return Running(self, int(self.ask({"start": asked})["pid"]), place)

    def run(self, arguments: Sequence[str], folder: Path, **how: Any) -> Ended:
        """The same, waited for."""
        return self.start(arguments, folder, **how).wait()


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


def _begin(asked: Mapping[str, Any]) -> None:
    """What a fork does: it never returns."""
    os.setsid()
    place = Path(asked["place"])
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(place / name, os.O_CREAT | os.O_WRONLY), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin = open(0)  # noqa: SIM115
    os.chdir(asked["folder"])
    sys.path[0] = asked["folder"]
    os.environ.update(asked["environment"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from costsim.cli import main

    sys.addaudithook(_Counter(place / "operations", asked["dies_at"]))
    status = 70
    try:
        status = main(asked["arguments"])
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _answer(question: Mapping[str, Any], ended: dict[int, int]) -> dict[str, Any]:
    if "start" in question:
        pid = os.fork()
        if not pid:
            _begin(question["start"])
        return {"pid": pid}
    if "reap" in question:
        pid = question["reap"]
        _, _, used = os.wait4(pid, 0)
        return {"status": ended.pop(pid), "peak_bytes": used.ru_maxrss * 1024}
    pid = question["look"]
    if pid not in ended:
        found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return {"ended": False}
        by_signal = found.si_code != os.CLD_EXITED
        ended[pid] = -found.si_status if by_signal else found.si_status
    return {"ended": True}


def _import_all() -> None:
    """Whatever a command may import later; what needs an extra that is not installed, it lacks."""
    import importlib
    import pkgutil

    import costsim

    for module in pkgutil.walk_packages(costsim.__path__, "costsim."):
        if not module.name.endswith("__main__"):
            with suppress(ImportError):
                importlib.import_module(module.name)


def _serve() -> None:
    import sklearn.datasets  # noqa: F401
    import torch

    torch.set_num_threads(1)
    _import_all()
    torch.export.export(torch.nn.ReLU(), (torch.zeros(1),))  # imports much on its first use
    ended: dict[int, int] = {}
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line), ended)), flush=True)


if __name__ == "__main__":
    _serve()
