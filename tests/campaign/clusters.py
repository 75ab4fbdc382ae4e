"""A Dask worker, or the scheduler, killed in the middle of a study."""

import random
import signal
import time
from functools import partial
from importlib.util import find_spec

from dask_cluster import Cluster

from .bench import check_one_line
from .experiment import Experiment, Unavailable
from .stage import Stage

GIVE_UP_S = 120.0
"""For a run to notice that its scheduler is gone."""


def _cluster(stage: Stage, workers: int) -> Cluster:
    if find_spec("distributed") is None:
        raise Unavailable("dask is not installed")
    found = Cluster(stage.new())
    for _ in range(workers):
        found.add_worker()
    return found


def worker_dies(stage: Stage, times: int, chance: random.Random) -> tuple[int, str]:
    """One of two workers, at a random moment; a new one comes for the next time."""
    bench, cluster = stage.bench("study"), _cluster(stage, 2)
    try:
        for _ in range(times):
            place = bench.new(stage.new())
            running = bench.start(place, more=("--scheduler", cluster.address))
            time.sleep(chance.uniform(0, bench.seconds))
            worker = cluster.processes.pop(1)
            worker.kill()
            worker.wait()
            ended = running.wait()
            assert ended.status in (0, 1), ended.err
            failed = [row for row in bench.work.keeps(place).values() if row["status"] == "failed"]
            assert len(failed) <= 1, failed
            bench.check_again(place)
            cluster.add_worker()
    finally:
        cluster.stop()
    return times, "at most the cell it was at has to be done again; the rows of a local run"


def scheduler_dies(
    how: signal.Signals, stage: Stage, times: int, chance: random.Random
) -> tuple[int, str]:
    """The scheduler, at a random moment; the study goes on with another one."""
    bench = stage.bench("study")
    for _ in range(times):
        place, cluster = bench.new(stage.new()), _cluster(stage, 1)
        try:
            running = bench.start(place, more=("--scheduler", cluster.address))
            time.sleep(chance.uniform(0.2, 0.8) * bench.seconds)
            if running.over():
                bench.check_result(place, running.wait())
                continue
            cluster.processes[0].send_signal(how)
            ended = running.wait(GIVE_UP_S)
            if ended.status:
                check_one_line(ended, "--scheduler")
            running.check_gone()
        finally:
            cluster.processes[0].kill()
            cluster.stop()
        bench.check_again(place)
    return times, f"one line within {GIVE_UP_S:g} s; what was finished is kept, the rest follows"


EXPERIMENTS = (
    Experiment("Dask worker killed", "costsim study --scheduler", worker_dies, 5, 1),
    Experiment(
        "Dask scheduler killed", "costsim study --scheduler",
        partial(scheduler_dies, signal.SIGKILL), 5, 1,
    ),
    Experiment(
        "Dask scheduler stopped (SIGSTOP)", "costsim study --scheduler",
        partial(scheduler_dies, signal.SIGSTOP), 2, 1,
    ),
)  # fmt: skip
