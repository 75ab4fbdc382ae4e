"""Work on several targets at once; what each brings is handed over as it comes."""

import threading
from collections.abc import Callable, Sequence
from queue import Queue
from typing import TypeVar

from costsim.hardware.targets.base import Watch

T = TypeVar("T")

Work = Callable[[Callable[[T], None]], None]
"""Does something on one target and gives each result to the function it gets; must not raise."""


def in_parallel(works: Sequence[Work[T]], watch: Watch, found: Callable[[T], None]) -> None:
    """Do all `works`, each in a thread of its own; `found` is called in the calling thread.

    Interrupted (Ctrl-C, or an error of `found`), it asks all to stop by `watch.stopping` and waits
    until they have cleaned up before it raises again; what comes in meanwhile is still handed over
    after an interruption.
    """
    queue: Queue[tuple[T] | None] = Queue()

    def begin(work: Work[T]) -> None:
        try:
            work(lambda item: queue.put((item,)))
        finally:
            queue.put(None)

    threads = [threading.Thread(target=begin, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    waiting = len(threads)
    reason: BaseException | None = None
    while waiting:
        try:
            item = queue.get()
            if item is None:
                waiting -= 1
            elif reason is None or isinstance(reason, KeyboardInterrupt):
                found(item[0])
        except BaseException as error:  # whatever it is, nothing is left on a device
            reason = reason or error
            watch.stopping.set()
    for thread in threads:
        thread.join()
    if reason is not None:
        raise reason
