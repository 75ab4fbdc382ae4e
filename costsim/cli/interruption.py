"""The first Ctrl-C is a wish: finish what is under way, keep it, and end."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Stop:
    """The signal that asked for an end, if any has."""

    signal: int | None = None


@contextmanager
def stopping() -> Iterator[Stop]:
    """While open, the first SIGINT or SIGTERM is only noted; a second one does what it always did.

    In a thread other than the main one, where Python allows no handlers, nothing is changed.
    """
    stop = Stop()
    previous: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def note(number: int, _frame: object) -> None:
        stop.signal = number
        restore()

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, note)
    try:
        yield stop
    finally:
        restore()
