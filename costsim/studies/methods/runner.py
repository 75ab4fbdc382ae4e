"""A study run: what is not in the store yet is computed, each cell once, here or on a cluster."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from costsim.studies.engine import CellStore, Done, run_missing
from costsim.studies.methods.cells import Cell
from costsim.studies.methods.work import Compute, MakeMethod, failed, head


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
    on_cluster = None
    if scheduler is not None:
        from costsim.studies.methods.cluster import run_on_cluster

        on_cluster = partial(
            run_on_cluster, store=store, make_method=make_method, address=scheduler
        )
    return run_missing(
        cells,
        store,
        Compute(store.path, make_method),
        group_of=lambda cell: cell.situation_key,
        failed=failed,
        watch=watch,
        workers=workers,
        elsewhere=on_cluster,
    )
