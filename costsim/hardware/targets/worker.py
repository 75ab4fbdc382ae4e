"""The process that does one job, here or on a device: reads its folder, writes its answer there.

In: `job.json` and the files beside it. Out: `progress` (one line of JSON, replaced as it goes) and
what `costsim.hardware.targets.readings` writes of the steps, then `outcome.json`, or `failure.json`
with a `reason` of `costsim.hardware.targets.base.Reason` and a message. It ends when its input
does, because then whoever started it is gone; the folder goes too.
"""

import contextlib
import errno
import importlib
import json
import os
import shutil
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from costsim.base.errors import CostsimError

if TYPE_CHECKING:
    from costsim.base.progress import Progress
    from costsim.hardware.results.outcome import Outcome
    from costsim.hardware.targets.job import RunOptions

PROGRESS_S = 0.2
"""Progress is written no more often."""

# As PyTorch, C++, kernels, the C library and its loader put it.
_OUT_OF_MEMORY = (
    "can't allocate memory",
    "bad_alloc",
    "out of memory",
    "cannot allocate memory",
    "failed to map segment",
)

# Page faults would decide, not the kernels: memory stays with the process between steps.
_STEADY = {
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 25),
}
# Big blocks straight from the system and back at once: what is asked for is what is held.
_EXACT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MALLOC_MMAP_THRESHOLD_": "65536",
}


def worker_environment(options: "RunOptions") -> dict[str, str]:
    """What must be set before the process starts, because libraries read it as they load."""
    threads = {} if options.threads is None else {"OMP_NUM_THREADS": str(options.threads)}
    return {**(_STEADY if options.memory_limit_bytes is None else _EXACT), **threads}


def main(folder: str) -> int:
    """Do the job in `folder`; exit status 0 if there is an outcome."""
    place = Path(folder)
    if not (place / "job.json").is_file():  # no folder of ours: nothing in it may be removed
        print(f"{folder}: holds no job.json", file=sys.stderr)
        return 2
    threading.Thread(target=_end_with_starter, args=(place,), daemon=True).start()
    _die_first()
    try:
        outcome = _do(place, _Progress(place / "progress"))
    except Exception as error:  # whatever it is must reach the person as one line
        traceback.print_exc()
        _replace(place / "failure.json", _failure(error))
        return 1
    _replace(place / "outcome.json", outcome.to_json())
    return 0


def _do(place: Path, report: "Progress") -> "Outcome":
    report("loading PyTorch", 0, 0)
    from costsim.hardware.results.outcome import Outcome
    from costsim.hardware.targets.job import PlanJob, job_from_json

    job = job_from_json(json.loads((place / "job.json").read_text()), place)
    if isinstance(job, PlanJob):
        from costsim.hardware.targets.plan_run import run_plan
        from costsim.hardware.targets.readings import Recorder

        return run_plan(job, report, Recorder(place))
    module, _, name = job.runner.partition(":")
    runner = getattr(importlib.import_module(module), name)
    return Outcome(target="", how="measured", samples=runner(job.batch, job.options, report))


def _failure(error: Exception) -> dict[str, Any]:
    text = " ".join(str(error).split())
    reason = getattr(error, "reason", "failed")
    if isinstance(error, MemoryError) or any(one in text.lower() for one in _OUT_OF_MEMORY):
        reason = "memory"
    elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        reason = "disk"
    elif isinstance(error, ImportError):
        reason = "missing"
    if not isinstance(error, CostsimError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
        text = f"out of memory: {text}" if reason == "memory" else text
    return {
        "reason": reason,
        "message": text,
        "predicted": getattr(error, "predicted", False),
    }


class _Progress:
    """Writes the latest progress where whoever waits looks for it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last: tuple[str, float] = ("", 0.0)

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self.last[0] or now - self.last[1] > PROGRESS_S:
            self.last = (what, now)
            _replace(self.path, [what, done, total])


def _replace(path: Path, document: object) -> None:
    half = path.with_name(f"{path.name}.half")
    half.write_text(json.dumps(document))
    half.replace(path)


def _end_with_starter(place: Path) -> None:
    while os.read(0, 1024):
        pass
    shutil.rmtree(place, ignore_errors=True)
    with contextlib.suppress(OSError):  # the session's own folder, once it is empty
        if place.parent.name.startswith("costsim-"):
            place.parent.rmdir()
    os._exit(1)


def _die_first() -> None:
    """Where the system runs out of memory it is this process that should go."""
    try:
        Path("/proc/self/oom_score_adj").write_text("900")
    except OSError:  # another system, or a limit on it: no matter
        return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
