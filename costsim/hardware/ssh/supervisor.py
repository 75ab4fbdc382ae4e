"""Keeps a folder on a device, runs what appears in it, and leaves nothing behind.

Standard library only, in one file: its text is sent to a Python on the device, which reads it
from its input. It goes into the background, so that it outlives the connection, and it ends, with
everything it started and every file, when it is told to (`end`), when the folder is gone, when it
is ended itself, or when nobody has touched `heartbeat` or an unfinished `*.part` for its patience.

In the folder: `heartbeat`; `job-N/go` (JSON: `argv`, `environment`, `limit_s`) begins a job, which
sees the end of its input when this process dies; `job-N/stop` ends it; `job-N/status` (JSON:
`returncode`, `ended`: exit, stop or time limit, and where the shipped package can tell, `memory`:
see `costsim.hardware.targets.out_of_memory`) says how it ended.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

TICK_S = 0.2
_OURS = re.compile(r"run-[0-9a-f]{12}")


class _Ended(Exception):
    """A signal asked this process to end."""


def main(arguments: list[str]) -> int:
    """`FOLDER PATIENCE_S`: make the folder, say `ready`, and go on in the background."""
    folder, patience_s = Path(arguments[0]).expanduser(), float(arguments[1])
    made = _make(folder)
    sys.stdout.flush()
    if os.fork():
        os.wait()
        patience_until = time.monotonic() + 30
        while not (folder / "supervisor").exists() and time.monotonic() < patience_until:
            time.sleep(0.02)
        print(f"ready {folder}", flush=True)
        return 0
    os.setsid()
    if os.fork():
        os._exit(0)
    try:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(nowhere, standard)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _end)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        _sweep(folder.parent)
        _keep(folder, patience_s)
    finally:
        _remove(folder, made)
        os._exit(0)


def _end(_number: int, _frame: FrameType | None) -> None:
    raise _Ended


def _make(folder: Path) -> list[Path]:
    """Make the folder; the folders above it that go, where empty, with it, innermost first."""
    made = [one for one in folder.parents if not one.exists()]
    if folder.parent.name == "costsim" and folder.parent not in made:
        made.insert(0, folder.parent)  # of another visit, which may have ended before this one
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700)
    _write(folder / "heartbeat", "")
    _write(folder / "made", "".join(f"{one}\n" for one in made))
    return made


def _keep(folder: Path, patience_s: float) -> None:
    """Run jobs as they appear until it is time to end."""
    _write(folder / "supervisor", json.dumps({"pid": os.getpid(), "boot": _boot()}))
    worker: Worker | None = None
    life, heard = _life(folder), time.monotonic()
    try:
        while folder.is_dir() and not (folder / "end").exists():
            now = time.monotonic()
            if (found := _life(folder)) != life:
                life, heard = found, now
            if now - heard > patience_s:
                break
            if worker is not None and worker.is_over():
                worker = None
            if worker is None and (waiting := _waiting(folder)) is not None:
                worker = Worker(waiting)
            time.sleep(TICK_S)
    except _Ended:
        pass
    finally:
        if worker is not None:
            worker.kill()


def _life(folder: Path) -> dict[str, int]:
    """When each file that the other side writes to was last touched."""
    found = {}
    for one in (folder / "heartbeat", *folder.glob("*.part"), *folder.glob("job-*/*.part")):
        with contextlib.suppress(OSError):
            found[str(one)] = one.stat().st_mtime_ns
    return found


def _waiting(folder: Path) -> Path | None:
    """The first job that is to run and has no status yet."""
    for go in sorted(folder.glob("job-*/go")):
        if not (go.parent / "status").exists():
            return go.parent
    return None


class Worker:
    """The process of one job, and its end."""

    def __init__(self, job: Path) -> None:
        self.job = job
        order: dict[str, Any] = json.loads((job / "go").read_text())
        (job / "reserve").write_bytes(bytes(8192))
        self.deadline = time.monotonic() + float(order["limit_s"])
        with (job / "log").open("wb") as log:
            self.process = subprocess.Popen(
                order["argv"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=str(job),
                env={**os.environ, **order["environment"]},
                start_new_session=True,
            )
        self.evidence = _evidence(job.parent / "lib", self.process.pid)

    def is_over(self) -> bool:
        """Whether it ended, by itself or because it had to; writes the status once."""
        ended = "exit"
        if self.evidence is not None:
            self.evidence.look()
        if self.process.poll() is None:
            if (self.job / "stop").exists():
                ended = "stop"
            elif time.monotonic() > self.deadline:
                ended = "time limit"
            else:
                return False
        self.kill()
        status = {"returncode": self.process.returncode, "ended": ended}
        if self.evidence is not None:
            status["memory"] = self.evidence.gather()
        try:
            _write(self.job / "status", json.dumps(status))
        except OSError:  # no room: this is what some was set aside for
            (self.job / "reserve").unlink()
            _write(self.job / "status", json.dumps(status))
        return True

    def kill(self) -> None:
        """End it and whatever it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()


def _evidence(library: Path, pid: int) -> Any:
    """What watches why a process ends, from the package that came with the jobs."""
    if str(library) not in sys.path:
        sys.path.insert(0, str(library))
    sys.dont_write_bytecode = True
    try:
        from costsim.hardware.targets.out_of_memory import Evidence
    except ImportError:
        return None
    return Evidence(pid)


def _sweep(parent: Path) -> None:
    """Remove what a supervisor left that died without warning (no power, say)."""
    for one in parent.glob("run-*"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            if _OURS.fullmatch(one.name):
                record = json.loads((one / "supervisor").read_text())
                if record["boot"] != _boot() or not Path("/proc", str(record["pid"])).exists():
                    shutil.rmtree(one, ignore_errors=True)


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _remove(folder: Path, made: list[Path]) -> None:
    for _ in range(10):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            break
        time.sleep(TICK_S)
    for one in made:
        try:
            one.rmdir()
        except OSError:
            break


def _write(path: Path, text: str) -> None:
    """Write a file that is there in full or not at all."""
    half = path.with_name(path.name + ".half")
    half.write_text(text)
    half.replace(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
