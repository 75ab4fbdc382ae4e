"""Cells over the local cores, each process on one thread.

A process keeps what cells share, so that it is given cells of one group as long as there are any.
It ends when the process that started it does, however that ends. One that dies takes only the cell
it was at.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

from costsim.errors import CostsimError, InputError

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

C = TypeVar("C")


@contextmanager
def single_threaded() -> Iterator[None]:
    """While open, a process that is started computes on one thread."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))  # read where a spawned process starts
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def worker_begins() -> None:
    """In a new process: deaf to Ctrl-C, gone when its parent is."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@dataclass(frozen=True)
class Attempt(Generic[C]):
    """A cell, and how often a process died at it."""

    cell: C
    deaths: int = 0


@dataclass
class _Worker(Generic[C]):
    process: BaseProcess
    pipe: "Connection[object, object]"
    at: Attempt[C] | None = None
    group: Hashable = None


@dataclass
class _Queue(Generic[C]):
    """Cells by group, in order."""

    group_of: Callable[[C], Hashable]
    groups: dict[Hashable, deque[Attempt[C]]] = field(default_factory=dict)

    def put(self, attempt: Attempt[C]) -> None:
        self.groups.setdefault(self.group_of(attempt.cell), deque()).append(attempt)

    @property
    def waiting(self) -> bool:
        """Whether any are left."""
        return any(self.groups.values())

    def take(self, group: Hashable, taken: set[Hashable]) -> Attempt[C] | None:
        """The next cell of `group`; else of one that nobody works on; else of any."""
        waiting = [key for key, cells in self.groups.items() if cells]
        if not waiting:
            return None
        free = [key for key in waiting if key not in taken]
        chosen = group if group in waiting else (free or waiting)[0]
        return self.groups[chosen].popleft()


def run_cells(
    cells: Sequence[C],
    compute: Callable[[C], None],
    *,
    workers: int,
    group_of: Callable[[C], Hashable],
    died: Callable[[C, str], None],
    told: Callable[[], None] = lambda: None,
    tries: int = 2,
) -> None:
    """Have `compute` called once for each cell, in `workers` processes.

    `compute` keeps its own result and lets no error of a cell out: what it raises ends the run as
    `InputError` (a full disk). Where a process dies the cell is tried again in a new one, `tries`
    times in all, then `died` is called with the reason. `told` is called whenever something has
    changed. Ctrl-C (`KeyboardInterrupt`) ends the processes.
    """
    queue: _Queue[C] = _Queue(group_of)
    for cell in cells:
        queue.put(Attempt(cell))
    running: list[_Worker[C]] = []
    try:
        with single_threaded():
            while True:
                while queue.waiting and len(running) < workers and all(w.at for w in running):
                    running.append(_started(compute))
                    _hand_out(queue, running)
                if not any(worker.at for worker in running):
                    return
                wait([handle for w in running for handle in (w.pipe, w.process.sentinel)])
                for worker in running.copy():
                    _look_at(worker, queue, running, died, tries)
                _hand_out(queue, running)
                told()
    finally:
        for worker in running:
            worker.pipe.close()
            worker.process.terminate()
        for worker in running:
            worker.process.join()


def _started(compute: Callable[[C], None]) -> "_Worker[C]":
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, compute), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _hand_out(queue: _Queue[C], running: Sequence[_Worker[C]]) -> None:
    for worker in running:
        if worker.at is not None:
            continue
        taken = {other.group for other in running if other.at is not None}
        attempt = queue.take(worker.group, taken)
        if attempt is None:
            continue
        worker.at, worker.group = attempt, queue.group_of(attempt.cell)
        try:
            worker.pipe.send(attempt.cell)
        except OSError:  # it died; its sentinel says so
            continue


def _look_at(
    worker: _Worker[C],
    queue: _Queue[C],
    running: list[_Worker[C]],
    died: Callable[[C, str], None],
    tries: int,
) -> None:
    try:
        if worker.pipe.poll():
            answer = worker.pipe.recv()
            if answer is not None:
                raise InputError(str(answer))
            worker.at = None
            return
    except (EOFError, OSError):
        worker.process.join()
    if worker.process.is_alive():
        return
    running.remove(worker)
    worker.pipe.close()
    if worker.at is None:
        return
    deaths = worker.at.deaths + 1
    if deaths < tries:
        queue.put(Attempt(worker.at.cell, deaths))
    else:
        code = worker.process.exitcode or 0
        how = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
        died(worker.at.cell, f"the process that computed it died {deaths} times ({how})")


def _work(pipe: "Connection[object, object]", compute: Callable[[C], None]) -> None:
    worker_begins()
    while True:
        try:
            cell: Any = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            compute(cell)
        except Exception as error:
            told = " ".join(str(error).split())
            pipe.send(
                told if isinstance(error, CostsimError) else f"{type(error).__name__}: {told}"
            )
        else:
            pipe.send(None)
