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


def threaded_map(
    function: Callable[[From], To],
    items: Iterable[From],
    *,
    size_of: Callable[[From], int] = lambda _item: 0,
    most: int = 0,
) -> Iterator[To]:
    """`map`, in order, with the work on as many threads as there are cores.

    `items` is iterated in the calling thread. What `function` raises is raised in its place. No
    more items wait, done or to be done, than have `most` together by `size_of`, or one alone.
    """
    threads = min(MOST_THREADS, usable_cores())
    if threads == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        waiting: deque[tuple[int, Future[To]]] = deque()
        held = 0
        try:
            for item in items:
                size = size_of(item)
                while waiting and (len(waiting) >= AHEAD * threads or held + size > most):
                    released, future = waiting.popleft()
                    yield future.result()
                    held -= released
                waiting.append((size, pool.submit(function, item)))
                held += size
            while waiting:
                yield waiting.popleft()[1].result()
        finally:
            for _, future in waiting:
                future.cancel()
