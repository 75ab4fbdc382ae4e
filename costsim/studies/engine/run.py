"""A run: what is not in the store yet is computed, each cell once, in processes or elsewhere."""

import os
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol, TypeVar

from costsim.studies.engine.cell_store import CellStore
from costsim.studies.engine.claims import Claims
from costsim.studies.engine.processes import run_cells
from costsim.studies.engine.progress import Done


class Keyed(Protocol):
    """A cell: its key is that of its row."""

    @property
    def key(self) -> str:
        """Digest of what its answer depends on."""


C = TypeVar("C", bound=Keyed)
C_contra = TypeVar("C_contra", bound=Keyed, contravariant=True)


class Elsewhere(Protocol[C_contra]):
    """Has cells computed by other means than processes of this machine."""

    def __call__(
        self,
        cells: Sequence[C_contra],
        *,
        died: Callable[[Any, str], None],
        told: Callable[[], None],
    ) -> None:
        """See `run_cells` for `died` and `told`."""


def run_missing(
    cells: Sequence[C],
    store: CellStore,
    compute: Callable[[C], None],
    *,
    group_of: Callable[[C], Hashable],
    failed: Callable[[C, BaseException], dict[str, Any]],
    watch: Callable[[Done], None],
    workers: int | None = None,
    in_order: Callable[[Sequence[C]], Sequence[C]] = lambda cells: cells,
    elsewhere: Elsewhere[C] | None = None,
) -> int:
    """Have all cells in `store`; returns how many of them this run computed.

    What is not there yet is begun `in_order`, by `compute` in `workers` processes (by default one
    for each core; see `run_cells`), or `elsewhere`. A cell at which a process dies twice has the
    row that `failed` makes. What another run is at is left to it. Ctrl-C (`KeyboardInterrupt`)
    ends the run; what was finished is in the store. Raises `InputError` for a store that cannot be
    written, and what `elsewhere` raises.
    """
    finished = store.finished()
    missing = [cell for cell in cells if cell.key not in finished]
    if not missing:
        return 0
    begun = time.monotonic()
    keys = frozenset(cell.key for cell in missing)

    def told() -> None:
        now, others = len(store.finished() & keys), len(claims.held() & keys)
        watch(Done(now, len(missing), time.monotonic() - begun, others))

    def died(cell: C, reason: str) -> None:
        store.write(failed(cell, RuntimeError(reason)) | {"reason": reason})

    with Claims[C](store, lambda cell: cell.key) as claims:
        if elsewhere is None:
            return run_cells(
                in_order(missing),
                compute,
                workers=workers or os.cpu_count() or 1,
                group_of=group_of,
                died=died,
                told=told,
                claims=claims,
            )
        computed = 0
        for mine in claims.batches(in_order(missing)):
            elsewhere(mine, died=died, told=told)
            computed += len(mine)
        return computed
