"""Workers on this machine: one process a seat, by `concurrent.futures`.

A pool of one process for each seat, because a pool of several breaks as a whole when one of them
dies, and does not say which cell it was at. docs/decisions/libraries.md has what else was measured.

Where the system can, processes are forked from a server that has imported what all of them need, so
that it is imported once and its memory shared.
"""

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Self

from costsim.studies.engine.pool import P, Pool, Seat, T
from costsim.studies.engine.worker import single_threaded, worker_begins

METHOD = "forkserver" if sys.platform == "linux" else "spawn"


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """While open, a process that is started is deaf to Ctrl-C from its first moment on."""
    resource_tracker.ensure_running()  # whose own start would unblock it again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class LocalPool(Pool):
    """So many processes, started when there is something for them to do."""

    tries = 2
    alone = True

    def __init__(self, workers: int, preload: Sequence[str] = ()) -> None:
        self._context = multiprocessing.get_context(METHOD)
        if METHOD == "forkserver":
            self._context.set_forkserver_preload(list(preload))
        self._seats = [LocalSeat(self._context) for _ in range(workers)]
        self._one_thread = single_threaded()

    def __enter__(self) -> Self:
        self._one_thread.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for seat in self._seats:
            seat.leave()
        self._one_thread.__exit__(kind, error, trace)

    def seats(self) -> Sequence["LocalSeat"]:
        """All of them; first those whose process runs already."""
        return sorted(self._seats, key=lambda seat: not seat.runs)


class LocalSeat(Seat):
    """One process; another one when it has died."""

    def __init__(self, context: BaseContext) -> None:
        self._context = context
        self._executor: ProcessPoolExecutor | None = None
        self._process: BaseProcess | None = None
        self._last: Future[Any] | None = None

    @property
    def runs(self) -> bool:
        """Whether there is a process."""
        return self._executor is not None

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Have a call computed, in a new process where there is none."""
        if self._executor is not None:
            with suppress(BrokenProcessPool):  # it died while it had nothing to do
                return self._call(self._executor, function, *args, **kwargs)
        self._executor = ProcessPoolExecutor(1, mp_context=self._context, initializer=worker_begins)
        others = {*multiprocessing.active_children()}
        future = self._call(self._executor, function, *args, **kwargs)
        (self._process,) = {*multiprocessing.active_children()} - others
        return future

    def _call(
        self,
        executor: ProcessPoolExecutor,
        function: Callable[P, T],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> "Future[T]":
        with deaf_to_interrupts():
            future = executor.submit(function, *args, **kwargs)
        self._last = future
        return future

    def death(self, error: BaseException, deaths: int) -> str | None:
        """How the process died; there is a new one at the next call."""
        if not isinstance(error, BrokenProcessPool):
            return None
        code = None
        if self._executor is not None:
            self._executor.shutdown()  # waits for the process
        if self._process is not None:
            code = self._process.exitcode
        self._executor = self._process = None
        how = f"killed by signal {-code}" if code and code < 0 else f"exit status {code}"
        return f"the process that computed it died {deaths} times ({how})"

    def leave(self) -> None:
        """End the process, at once where it computes."""
        if self._executor is None:
            return
        if self._process is not None and self._last is not None and not self._last.done():
            self._process.terminate()
        self._executor.shutdown(cancel_futures=True)
        self._executor = self._process = None
