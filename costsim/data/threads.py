"""Decoding on all cores: the decoders of Pillow let other threads run while they work."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

From = TypeVar("From")
To = TypeVar("To")

MOST_THREADS = 8

AHEAD = 4
"""Items a thread that may wait, done or to be done, so that memory stays bounded."""


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threaded_map(function: Callable[[From], To], items: Iterable[From]) -> Iterator[To]:
    """`map`, in order, with the work on as many threads as there are cores.

    `items` is iterated in the calling thread. What `function` raises is raised in its place.
    """
    threads = min(MOST_THREADS, usable_cores())
    if threads == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        waiting: deque[Future[To]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= AHEAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
