"""A study over the local cores: what is not in the store yet is computed, each cell once.

Every process works with one thread, writes its own rows, and ends when the process that started
it does, however that ends. Several runs on one store share its cells.
"""

import os
import time
from collections import defaultdict
from collections.abc import Callable, Sequence

from costsim.cells import Claims, Done, run_cells
from costsim.comparison.cells import Cell
from costsim.comparison.store import Store
from costsim.comparison.work import Compute, MakeSolver, failed, group_of


def run(
    cells: Sequence[Cell],
    store: Store,
    make_solver: MakeSolver,
    *,
    workers: int | None = None,
    progress: Callable[[str, Done], None] = lambda what, done: None,
) -> int:
    """Have all cells in `store`; returns how many of them were computed here.

    A cell that breaks, or at which a process dies twice, leaves a row with status `error` and is
    tried again by the next run. What another run is at is left to it. Ctrl-C
    (`KeyboardInterrupt`) ends the processes; what they finished is in the store.
    """
    finished = store.finished()
    missing = [cell for cell in cells if cell.key not in finished]
    if not missing:
        return 0
    begun = time.monotonic()
    keys = frozenset(cell.key for cell in missing)

    def told() -> None:
        now, elsewhere = len(store.finished() & keys), len(claims.held() & keys)
        progress("solving", Done(now, len(missing), time.monotonic() - begun, elsewhere))

    def died(cell: Cell, reason: str) -> None:
        store.write(failed(cell, RuntimeError(reason)) | {"reason": reason})

    with Claims[Cell](store, lambda cell: cell.key) as claims:
        return run_cells(
            _spread(missing),
            Compute(store.path, make_solver),
            workers=min(workers or os.cpu_count() or 1, len(missing)),
            group_of=group_of,
            died=died,
            told=told,
            claims=claims,
        )


def _spread(cells: Sequence[Cell]) -> list[Cell]:
    """Cells of other scores first, so that processes begin by scoring different tasks."""
    devices: defaultdict[str, dict[str, int]] = defaultdict(dict)
    rank = {}
    for cell in cells:
        seen = devices[cell.importance_key]
        rank[cell.key] = seen.setdefault(cell.device_digest, len(seen))
    return sorted(cells, key=lambda cell: rank[cell.key])
