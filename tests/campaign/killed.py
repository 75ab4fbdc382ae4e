"""Commands killed at random moments, and before each operation that changes a file."""

import random
import shutil
import signal
import time
from functools import partial
from pathlib import Path

from .bench import Bench
from .commands import Running
from .experiment import Experiment
from .stage import Stage
from .workloads import WORKLOADS


def at_random_moments(
    command: str, stage: Stage, times: int, chance: random.Random
) -> tuple[int, str]:
    """Killed `times` times, each at a moment drawn from the length of a whole run."""
    bench, killed, attempt = stage.bench(command), 0, 0
    while killed < times:
        attempt += 1
        assert attempt < 4 * times + 10, "it is over before it can be killed"
        place = bench.new(stage.new())
        moment = chance.uniform(0, bench.seconds)
        running = bench.start(place)
        time.sleep(moment)
        running.kill()
        try:
            killed += _check(bench, place, running)
        except AssertionError as error:
            raise AssertionError(f"killed after {moment:.3f} s: {error}") from error
        shutil.rmtree(place)
    return killed, held(command)


def at_file_operations(
    command: str, stage: Stage, times: int, chance: random.Random
) -> tuple[int, str]:
    """Killed before each operation that opens a file for writing, renames or removes one.

    With `times` before so many of them, drawn.
    """
    bench, killed = stage.bench(command), 0
    every = range(1, bench.operations + 1)
    chosen = sorted(chance.sample(every, times)) if 0 < times < len(every) else every
    for number in chosen:
        place = bench.new(stage.new())
        running = bench.start(place, dies_at=number)
        try:
            killed += _check(bench, place, running)
        except AssertionError as error:
            raise AssertionError(f"killed before file operation {number}: {error}") from error
        shutil.rmtree(place)
    return killed, held(command)


def _check(bench: Bench, place: Path, running: Running) -> bool:
    """Whether it was killed before its end; either way the result is the same in the end."""
    ended = running.wait()
    running.check_gone()
    if ended.status == 0:
        bench.check_result(place, ended)
        return False
    assert ended.status == -signal.SIGKILL, f"status {ended.status}: {ended.err}"
    bench.check_again(place)
    return True


def held(command: str) -> str:
    """What `Bench.check_again` has found to hold."""
    work = WORKLOADS[command]
    kept = "what was finished stays as it was; " if work.keeps else ""
    without = f" ({work.without} left out)" if work.without else ""
    return f"{kept}the same result to the bit{without}; nothing left behind"


EXPERIMENTS = (
    *(
        Experiment(
            "killed at a random moment", f"costsim {name}", partial(at_random_moments, name), 30, 2
        )
        for name in WORKLOADS
    ),
    *(
        Experiment(
            "killed at a file operation",
            f"costsim {name}",
            partial(at_file_operations, name),
            20 if name in ("study", "compare", "measure") else 0,
            2,
        )
        for name in WORKLOADS
    ),
)
