"""A study over the local cores: what is not in the store yet is computed, each cell once.

Every process works with one thread, writes its own rows, and ends when the process that started
it does, however that ends.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from costsim.cells import Done, single_threaded, worker_begins
from costsim.comparison.cells import Cell
from costsim.comparison.store import Store
from costsim.comparison.work import Job, MakeSolver, failed, jobs, score, work


def run(
    cells: Sequence[Cell],
    store: Store,
    make_solver: MakeSolver,
    *,
    workers: int | None = None,
    progress: Callable[[str, Done], None] = lambda what, done: None,
) -> int:
    """Compute the cells that `store` does not have; returns how many those were.

    A cell that breaks leaves a row with status `error` and is tried again by the next run. Ctrl-C
    (`KeyboardInterrupt`) ends the processes; what they finished is in the store.
    """
    finished = store.finished()
    missing = [cell for cell in cells if cell.key not in finished]
    if not missing:
        return 0
    begun = time.monotonic()
    count = min(workers or os.cpu_count() or 1, len(missing))
    keys = frozenset(cell.key for cell in missing)

    def tell(what: str) -> None:
        now = store.finished() & keys
        progress(what, Done(len(now), len(missing), time.monotonic() - begun))

    firsts: dict[str, Cell] = {}
    for cell in missing:
        firsts.setdefault(cell.importance_key, cell)
    scoring = [Job((cell,)) for cell in firsts.values()]
    stages = (
        Stage("scoring channels", _score, scoring),
        Stage("solving", _work, jobs(missing)),
    )
    left = _pooled(stages, store, make_solver, count, tell)
    # A process died, and with it the pool. One by one they show which cell it was.
    for job in left:
        for cell in job.cells:
            if cell.key in store.finished():
                continue
            alone = Stage("solving", _work, [Job((cell,))])
            if _pooled((alone,), store, make_solver, 1, tell):
                store.write(failed(cell, RuntimeError("the process that solved it died")))
    tell("done")
    return len(missing)


@dataclass(frozen=True, slots=True)
class Stage:
    """Jobs that are done side by side, and what that is called."""

    name: str
    task: Callable[[Job, Path, MakeSolver], None]
    jobs: Sequence[Job]


def _pooled(
    stages: Sequence[Stage],
    store: Store,
    make_solver: MakeSolver,
    workers: int,
    tell: Callable[[str], None],
) -> list[Job]:
    """Do one stage after the other; the jobs of the last that a process which died left."""
    pool = ProcessPoolExecutor(
        max_workers=workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=worker_begins,
    )
    left: list[Job] = []
    try:
        with single_threaded():
            for stage in stages:
                left = _staged(pool, stage, store.path, make_solver, tell)
    except BaseException:
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        raise
    pool.shutdown()
    return left


def _staged(
    pool: ProcessPoolExecutor,
    stage: Stage,
    path: Path,
    make_solver: MakeSolver,
    tell: Callable[[str], None],
) -> list[Job]:
    """Have every job of a stage done; those that were not when a process died."""
    left: list[Job] = []
    futures: dict[Future[None], Job] = {}
    for job in stage.jobs:
        try:
            futures[pool.submit(stage.task, job, path, make_solver)] = job
        except BrokenProcessPool:
            left.append(job)
    waiting = set(futures)
    while waiting:
        done, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
        for future in done:
            if isinstance(future.exception(), BrokenProcessPool):
                left.append(futures[future])
            else:
                future.result()
        tell(stage.name)
    return left


def _score(job: Job, path: Path, make_solver: MakeSolver) -> None:
    store = Store(path)
    for cell in job.cells:
        try:
            score(cell, store, make_solver)
        except Exception:  # its cells will say so
            continue


def _work(job: Job, path: Path, make_solver: MakeSolver) -> None:
    work(job, Store(path), make_solver, lambda: None)
