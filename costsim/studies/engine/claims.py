"""Cells shared between runs on one store: what one works on, the others leave alone.

A claim is a row of the store, and lasts as long as the process that it names. Whether that is still
there is asked of the system; where that cannot be done (another container) the claim lapses when
the run has not confirmed it for `EXPIRES_S`.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Generic, Self, TypeVar

from costsim.base.errors import InputError
from costsim.studies.engine.cell_store import EXPIRES_S, CellStore, Claim
from costsim.studies.engine.claimant import Owner

BEAT_S = EXPIRES_S / 6
POLL_S = 0.5
"""How often a run with nothing else to do looks whether others have ended."""

C = TypeVar("C")


class Claims(Generic[C]):
    """What one run takes of the cells of `store`, confirmed while the context is open.

    A cell that another run has failed at since this was made counts as done: whoever wants it
    tried again starts another run.
    """

    def __init__(self, store: CellStore, key_of: Callable[[C], str]) -> None:
        self.store, self.key_of = store, key_of
        self._failures = store.failures()
        self._owners: set[Owner] = set()
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._confirm, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed.set()
        with suppress(InputError):  # the processes are gone, so that others see it anyway
            self.store.release(self._owners)

    def take(self, cell: C, pid: int) -> Claim:
        """Claim `cell` for the process `pid`."""
        owner = Owner.of(pid)
        self._owners = self._owners | {owner}
        key = self.key_of(cell)
        return self.store.claim(key, owner, failures=self._failures.get(key, 0))

    def held(self) -> frozenset[str]:
        """Keys that processes of other runs are at now."""
        return self.store.claimed(aside=self._owners)

    def batches(self, cells: Sequence[C]) -> Iterator[list[C]]:
        """`cells` for this process, many at once: what is free, then what others leave."""
        left = list(cells)
        while left:
            claims = [(cell, self.take(cell, os.getpid())) for cell in left]
            left = [cell for cell, claim in claims if claim is Claim.HELD]
            mine = [cell for cell, claim in claims if claim is Claim.MINE]
            if mine:
                yield mine
            elif left:
                time.sleep(POLL_S)

    def _confirm(self) -> None:
        while not self._closed.wait(BEAT_S):
            with suppress(InputError):  # a full disk shows where a row is written
                self.store.confirm(self._owners)
