"""What a worker process does: it computes cells on one thread, and ends with who started it."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from multiprocessing.connection import wait

from costsim.studies.engine.cell import C
from costsim.studies.engine.kind import Kind
from costsim.studies.engine.workshop import Computed, Workshop

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@contextmanager
def single_threaded() -> Iterator[None]:
    """While open, a process that is started computes on one thread."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))  # read where libraries are loaded
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


def compute(kind: Kind[C], cell: C, shared: str | None) -> Computed:
    """One cell, in a worker; see `Workshop.computed`."""
    # Cells may change a model in place, so that no two threads share what cells share.
    return _workshop(kind, threading.get_ident()).computed(cell, shared)


@lru_cache(maxsize=32)
def _workshop(kind: Kind[C], _thread: int) -> Workshop[C]:
    return kind.workshop()
