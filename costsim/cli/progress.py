"""What a person sees on stderr while a command works.

Others' code runs meanwhile, a model's `forward` for one, and prints what it likes: that goes to
stderr too, because stdout belongs to results.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from costsim.base.code import others_prints_aside

if TYPE_CHECKING:
    from costsim.base.progress import Progress

LINE_EVERY_S = 10.0
"""How often a line is written where no terminal shows a live one."""


@contextmanager
def progress_on_stderr() -> Iterator["Progress"]:
    """Progress for a person watching: a live line on a terminal, nothing in a pipe."""
    from rich.console import Console

    console = Console(stderr=True, markup=False)
    with others_prints_aside(), console.status("starting") as status:

        def report(what: str, done: int, total: int) -> None:
            status.update(f"{what} ({done}/{total})" if total else what)

        yield report


@contextmanager
def lines_on_stderr() -> Iterator[Callable[[str], None]]:
    """For runs of hours: a live line on a terminal, else a line now and then."""
    if sys.stderr.isatty() and "NO_COLOR" not in os.environ:
        from rich.console import Console

        live = Console(stderr=True, markup=False).status("starting")
        with others_prints_aside(), live as status:
            yield status.update
        return
    told = time.monotonic()

    def say(line: str) -> None:
        nonlocal told
        if time.monotonic() - told >= LINE_EVERY_S:
            told = time.monotonic()
            print(f"costsim: {line}", file=sys.stderr, flush=True)

    with others_prints_aside():
        yield say
