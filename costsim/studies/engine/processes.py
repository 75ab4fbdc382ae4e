"""Cells over the local cores, each process on one thread.

A process keeps what cells share, so that it is given cells of one group as long as there are any.
It ends when the process that started it does, however that ends. One that dies takes only the cell
it was at. Where other runs work on the same store, a cell is claimed before it is begun.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

from costsim.base.errors import CostsimError, InputError
from costsim.studies.engine.cell_store import Claim
from costsim.studies.engine.claims import POLL_S, Claims

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

TO_LEAVE_S = 5.0
"""For a process that has nothing to do, at the end of a run."""

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


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """While open, a process that is started is deaf to Ctrl-C from its first moment on."""
    resource_tracker.ensure_running()  # whose own start would unblock it again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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

    def take(
        self, group: Hashable, taken: set[Hashable], held: Callable[[C], bool]
    ) -> Attempt[C] | None:
        """The next cell of `group`; else of one that nobody works on; else of any; none `held`."""
        first = {
            key: attempt
            for key, cells in self.groups.items()
            if (attempt := next((one for one in cells if not held(one.cell)), None)) is not None
        }
        if not first:
            return None
        free = [key for key in first if key not in taken]
        chosen = group if group in first else (free or list(first))[0]
        self.groups[chosen].remove(first[chosen])
        return first[chosen]


def run_cells(
    cells: Sequence[C],
    compute: Callable[[C], None],
    *,
    workers: int,
    group_of: Callable[[C], Hashable],
    died: Callable[[C, str], None],
    told: Callable[[], None] = lambda: None,
    tries: int = 2,
    claims: Claims[C] | None = None,
) -> int:
    """Have `compute` called once for each cell, in `workers` processes; how many that were here.

    `compute` keeps its own result and lets no error of a cell out: what it raises ends the run as
    `InputError` (a full disk). Where a process dies the cell is tried again in a new one, `tries`
    times in all, then `died` is called with the reason. `told` is called whenever something has
    changed. With `claims`, what other runs are at is left to them, and taken over if they die: this
    returns when all cells are done, here or there. Ctrl-C (`KeyboardInterrupt`) ends the processes.
    """
    run = _Run(compute, _Queue(group_of), died, tries, claims)
    for cell in cells:
        run.queue.put(Attempt(cell))
    try:
        with single_threaded():
            while True:
                run.hand_out()
                while run.queue.waiting and len(run.running) < workers and run.all_busy:
                    run.start()
                    run.hand_out()
                if not any(worker.at for worker in run.running) and not run.queue.waiting:
                    return run.ended
                run.wait()
                for worker in run.running.copy():
                    run.look_at(worker)
                told()
    finally:
        for worker in run.running:
            worker.pipe.close()  # which ends what is idle
            if worker.at is not None:
                worker.process.terminate()
        for worker in run.running:
            worker.process.join(TO_LEAVE_S)
            worker.process.terminate()
            worker.process.join()


@dataclass
class _Run(Generic[C]):
    """The processes of a run, and what they are at."""

    compute: Callable[[C], None]
    queue: _Queue[C]
    died: Callable[[C, str], None]
    tries: int
    claims: Claims[C] | None
    running: list[_Worker[C]] = field(default_factory=list)
    ended: int = 0

    @property
    def all_busy(self) -> bool:
        return all(worker.at for worker in self.running)

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self.compute), daemon=True)
        with deaf_to_interrupts():
            process.start()
        theirs.close()
        self.running.append(_Worker(process, ours))

    def hand_out(self) -> None:
        """Give every process that has nothing to do the next cell that is free."""
        idle = [worker for worker in self.running if worker.at is None]
        if not idle or not self.queue.waiting:
            return
        held = set() if self.claims is None else set(self.claims.held())
        for worker in idle:
            self._give(worker, held)

    def _give(self, worker: _Worker[C], held: set[str]) -> None:
        claims = self.claims

        def is_held(cell: C) -> bool:
            return claims is not None and claims.key_of(cell) in held

        while True:
            taken = {other.group for other in self.running if other.at is not None}
            if held:
                # What cells of a group share is better made by one process than by two.
                taken |= {
                    group
                    for group, cells in self.queue.groups.items()
                    if any(is_held(one.cell) for one in cells)
                }
            attempt = self.queue.take(worker.group, taken, is_held)
            if attempt is None:
                return
            if claims is not None:
                assert worker.process.pid is not None
                claim = claims.take(attempt.cell, worker.process.pid)
                if claim is Claim.HELD:
                    held.add(claims.key_of(attempt.cell))
                    self.queue.put(attempt)
                if claim is not Claim.MINE:
                    continue
            worker.at, worker.group = attempt, self.queue.group_of(attempt.cell)
            with suppress(OSError):  # it died; its sentinel says so
                worker.pipe.send(attempt.cell)
            return

    def wait(self) -> None:
        """Until something has happened; while others are at cells of ours, for a moment."""
        moment = POLL_S if self.claims is not None and self.queue.waiting else None
        handles = [handle for w in self.running for handle in (w.pipe, w.process.sentinel)]
        if handles:
            wait(handles, moment)
        elif moment is not None:
            time.sleep(moment)

    def look_at(self, worker: _Worker[C]) -> None:
        """Take note of an answer, or of a death."""
        try:
            if worker.pipe.poll():
                answer = worker.pipe.recv()
                if answer is not None:
                    raise InputError(str(answer))
                worker.at = None
                self.ended += 1
                return
        except (EOFError, OSError):
            worker.process.join()
        if worker.process.is_alive():
            return
        self.running.remove(worker)
        worker.pipe.close()
        if worker.at is None:
            return
        deaths = worker.at.deaths + 1
        if deaths < self.tries:
            self.queue.put(Attempt(worker.at.cell, deaths))
        else:
            code = worker.process.exitcode or 0
            how = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
            self.ended += 1
            self.died(worker.at.cell, f"the process that computed it died {deaths} times ({how})")


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
