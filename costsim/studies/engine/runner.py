"""A run: what is not in the store yet is computed, each cell once, here or on a cluster.

Rows come back from the workers and are written by the process that runs the study, the only one
that needs the store. Runs on one store share its cells: each is claimed before it is begun.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future
from concurrent.futures import wait as wait_for
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain
from typing import Generic

from costsim.studies.engine.cell import C
from costsim.studies.engine.cell_store import Claim
from costsim.studies.engine.claims import Claims
from costsim.studies.engine.kind import Kind
from costsim.studies.engine.local import LocalPool
from costsim.studies.engine.pool import Pool, Seat
from costsim.studies.engine.progress import Done
from costsim.studies.engine.store import StudyStore
from costsim.studies.engine.worker import compute
from costsim.studies.engine.workshop import Computed, failed

POLL_S = 0.5
"""How often a run that waits for others looks whether they have ended."""

TELL_S = 1.0
"""How often the store is asked how far all runs have come."""

Watch = Callable[[Done], None]


def run_study(
    cells: Sequence[C],
    store: StudyStore[C],
    kind: Kind[C],
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    watch: Watch = lambda _done: None,
) -> int:
    """Have all cells in `store`; returns how many of them this run computed.

    In `workers` local processes (by default one for each core), or on the Dask cluster of
    `scheduler`. A cell that breaks, or at which workers die time and again, leaves a row without an
    answer and is tried again by the next run. What another run is at is left to it, and taken over
    if it dies: this returns when all cells are done, here or there. Ctrl-C (`KeyboardInterrupt`)
    ends the run; what was finished is in the store. Raises `InputError` for a store that cannot be
    written and for a cluster that cannot be used.
    """
    finished = store.finished()
    missing = [cell for cell in cells if cell.key not in finished]
    if not missing:
        return 0
    with _pool(workers, scheduler, kind.preload) as pool, Claims(store) as claims:
        return _Run(kind.in_order(missing), store, kind, pool, claims, watch).ended()


def _pool(
    workers: int | None, scheduler: str | None, preload: Sequence[str]
) -> AbstractContextManager[Pool]:
    if scheduler is None:
        return LocalPool(workers or os.cpu_count() or 1, preload)
    from costsim.studies.engine.cluster import connected

    return connected(scheduler)


@dataclass(frozen=True)
class _Attempt(Generic[C]):
    """A cell, and how often a worker died at it."""

    cell: C
    deaths: int = 0


class _Queue(Generic[C]):
    """Cells by group, in order."""

    def __init__(self, cells: Iterable[C]) -> None:
        self.groups: dict[Hashable, deque[_Attempt[C]]] = {}
        for cell in cells:
            self.put(_Attempt(cell))

    def put(self, attempt: _Attempt[C]) -> None:
        self.groups.setdefault(attempt.cell.group, deque()).append(attempt)

    def take(
        self, near: Hashable, taken: set[Hashable], held: Callable[[C], bool]
    ) -> _Attempt[C] | None:
        """The next of group `near`; else of one that is not `taken`; else of any; none `held`."""
        free = (group for group in self.groups if group not in taken)
        for group in chain([near], free, self.groups):
            waiting = self.groups.get(group, ())
            attempt = next((one for one in waiting if not held(one.cell)), None)
            if attempt is not None:
                self.groups[group].remove(attempt)
                if not self.groups[group]:
                    del self.groups[group]
                return attempt
        return None


class _Run(Generic[C]):
    """The cells of a run that wait, and those that a seat is at.

    What cells share is made with the first of them, while the others of this run wait; the claim on
    it keeps other runs from making it too.
    """

    def __init__(
        self,
        cells: Sequence[C],
        store: StudyStore[C],
        kind: Kind[C],
        pool: Pool,
        claims: Claims,
        watch: Watch,
    ) -> None:
        self.store, self.kind, self.pool, self.claims = store, kind, pool, claims
        self.watch = watch
        self.queue = _Queue(cells)
        self.group_of = {cell.key: cell.group for cell in cells}
        self.at: dict[Future[Computed], tuple[Seat, _Attempt[C]]] = {}
        self.known: set[str] = set()
        self.making: set[str] = set()
        self.computed = 0
        self.begun = time.monotonic()
        self.told = 0.0

    def ended(self) -> int:
        """How many cells were computed here, once none is left anywhere."""
        while self.queue.groups or self.at:
            self.hand_out()
            self.tell()
            for future in self.wait():
                self.take(future)
        self.tell(last=True)
        return self.computed

    def hand_out(self) -> None:
        """Give every seat that has nothing to do the next cell that is free."""
        seats = self.pool.seats()
        busy = {seat for seat, _ in self.at.values()}
        idle = [seat for seat in seats if seat not in busy]
        if not idle or not self.queue.groups:
            return
        held = set(self.claims.held())
        for seat in idle:
            attempt = self._next(seat, held)
            if attempt is None:
                return
            self._begin(seat, attempt)

    def _next(self, seat: Seat, held: set[str]) -> _Attempt[C] | None:
        """A cell that is claimed for this run; adds to what is `held` by others."""
        # What cells of a group share is better made by one process than by two.
        taken = {attempt.cell.group for _, attempt in self.at.values()}
        taken |= {self.group_of[key] for key in held if key in self.group_of}

        def is_held(cell: C) -> bool:
            shared = cell.shared_key
            return cell.key in held or (
                shared is not None and (shared in self.making or _name(shared) in held)
            )

        while True:
            attempt = self.queue.take(seat.group, taken, is_held)
            if attempt is None:
                return None
            claim = self.claims.take(attempt.cell.key)
            if claim is Claim.MINE:
                if self._may_share(attempt.cell, held):
                    return attempt
                self.claims.release(attempt.cell.key)
            elif claim is Claim.HELD:
                held.add(attempt.cell.key)
            if claim is not Claim.DONE:
                self.queue.put(attempt)

    def _may_share(self, cell: C, held: set[str]) -> bool:
        """Whether what the cell shares is there, or may be made with it."""
        key = cell.shared_key
        if key is None or key in self.known:
            return True
        if self.claims.take(_name(key)) is Claim.HELD:
            held.add(_name(key))
            return False
        if self.store.shared(key) is None:
            self.making.add(key)
        else:
            self.known.add(key)
            self.claims.release(_name(key))
        return True

    def _begin(self, seat: Seat, attempt: _Attempt[C]) -> None:
        cell = attempt.cell
        shared = self.store.shared(cell.shared_key) if cell.shared_key in self.known else None
        seat.group = cell.group
        self.at[seat.submit(compute, self.kind, cell, shared)] = (seat, attempt)

    def wait(self) -> Iterable["Future[Computed]"]:
        """Those that have ended, once something has; while others may end too, after a moment."""
        moment = None if self.pool.alone and not self.queue.groups else POLL_S
        if self.at:
            return wait_for(list(self.at), moment, FIRST_COMPLETED).done
        if self.queue.groups:
            time.sleep(POLL_S)
        return ()

    def take(self, future: "Future[Computed]") -> None:
        """Keep what came of a cell."""
        seat, attempt = self.at.pop(future)
        try:
            computed: Computed | None = future.result()
        except Exception as error:
            computed = self._broken(seat, attempt, error)
        key = attempt.cell.shared_key
        if key in self.making:
            self.making.remove(key)
            if computed is not None and computed.shared is not None:
                self.store.keep_shared(key, computed.shared)
                self.known.add(key)
            self.claims.release(_name(key))
        if computed is not None:
            self.store.write(computed.row)
            self.computed += 1

    def _broken(self, seat: Seat, attempt: _Attempt[C], error: Exception) -> Computed | None:
        """The row of a cell that has none; None where it is tried again."""
        deaths = attempt.deaths + 1
        reason = seat.death(error, deaths)
        if reason is None:
            return Computed(failed(attempt.cell, error, self.kind.broken))
        if deaths < self.pool.tries:
            self.queue.put(_Attempt(attempt.cell, deaths))
            return None
        return Computed({**attempt.cell.head, "status": self.kind.broken, "reason": reason})

    def tell(self, *, last: bool = False) -> None:
        """Say how far all runs on the store have come, now and then."""
        now = time.monotonic()
        if not last and now - self.told < TELL_S:
            return
        self.told = now
        mine = self.group_of.keys()
        done, others = len(self.store.finished() & mine), len(self.claims.held() & mine)
        self.watch(Done(done, len(mine), now - self.begun, others))


def _name(shared_key: str) -> str:
    """What a claim on a document that cells share is called."""
    return f"shared {shared_key}"
