"""Cells shared between runs on one store: what one works on, the others leave alone.

A claim is a row of the store, and lasts as long as the process that it names: the one that runs the
study, which alone writes rows and whose workers end with it. Whether it is still there is asked of
the system; where that cannot be done (another container) the claim lapses when the run has not
confirmed it for `EXPIRES_S`.
"""

import os
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

from costsim.base.errors import InputError
from costsim.studies.engine.cell_store import EXPIRES_S, CellStore, Claim
from costsim.studies.engine.claimant import Owner

BEAT_S = EXPIRES_S / 6


class Claims:
    """What this process takes of the cells of `store`, confirmed while the context is open.

    A cell that another run has failed at since this was made counts as done: whoever wants it
    tried again starts another run.
    """

    def __init__(self, store: CellStore) -> None:
        self.store, self._owner = store, Owner.of(os.getpid())
        self._failures = store.failures()
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
        with suppress(InputError):  # the process ends soon, so that others see it anyway
            self.store.release([self._owner])

    def take(self, key: str) -> Claim:
        """Claim what `key` stands for."""
        return self.store.claim(key, self._owner, failures=self._failures.get(key, 0))

    def release(self, key: str) -> None:
        """End the claim on `key`."""
        self.store.release([self._owner], key)

    def held(self) -> frozenset[str]:
        """Keys that other runs are at now."""
        return self.store.claimed(aside=[self._owner])

    def _confirm(self) -> None:
        while not self._closed.wait(BEAT_S):
            with suppress(InputError):  # a full disk shows where a row is written
                self.store.confirm([self._owner])
