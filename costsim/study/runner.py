"""A study run: what is not in the store yet is computed, each cell once, here or on a cluster."""

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from costsim.cells import CellStore, Claims, Done, run_cells
from costsim.study.cells import Cell
from costsim.study.work import Compute, MakeMethod, failed, head


def finished_rows(cells: Sequence[Cell], store: CellStore) -> list[dict[str, Any]]:
    """The rows of `cells` that are there, named as the cells are now, not as when they ran."""
    found = {row["key"]: row for row in store.rows([cell.key for cell in cells])}
    return [{**found[cell.key], **head(cell)} for cell in cells if cell.key in found]


Watch = Callable[[Done], None]


def run_study(
    cells: Sequence[Cell],
    store: CellStore,
    make_method: MakeMethod,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    watch: Watch = lambda done: None,
) -> int:
    """Have all cells in `store`; returns how many of them were computed here.

    In `workers` local processes, or on the Dask cluster of `scheduler`. A cell that breaks, or at
    which a process dies twice, leaves a row with status `failed` and is tried again by the next
    run; one that its method refuses is finished. What another run is at is left to it. Ctrl-C
    (`KeyboardInterrupt`) ends the run; what was finished is in the store. Raises `InputError` for a
    store that cannot be written and for a cluster that cannot be used.
    """
    finished = store.finished()
    missing = [cell for cell in cells if cell.key not in finished]
    if not missing:
        return 0
    begun = time.monotonic()
    keys = frozenset(cell.key for cell in missing)

    def told() -> None:
        now, elsewhere = len(store.finished() & keys), len(claims.held() & keys)
        watch(Done(now, len(missing), time.monotonic() - begun, elsewhere))

    def died(cell: Cell, reason: str) -> None:
        store.write(failed(cell, RuntimeError(reason)) | {"reason": reason})

    with Claims[Cell](store, lambda cell: cell.key) as claims:
        if scheduler is None:
            return run_cells(
                missing,
                Compute(store.path, make_method),
                workers=workers or os.cpu_count() or 1,
                group_of=lambda cell: cell.situation_key,
                died=died,
                told=told,
                claims=claims,
            )
        from costsim.study.cluster import run_on_cluster

        computed = 0
        for mine in claims.batches(missing):
            run_on_cluster(mine, store, make_method, scheduler, died=died, told=told)
            computed += len(mine)
        return computed
