"""A study over the local cores: what is not in the store yet is computed, each cell once.

Every process works with one thread, writes its own rows, and ends when the process that started
it does, however that ends. Several runs on one store share its cells.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence

from costsim.studies.engine import Done, run_missing
from costsim.studies.solvers.cells import Cell
from costsim.studies.solvers.store import Store
from costsim.studies.solvers.work import Compute, MakeSolver, failed, group_of


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
    return run_missing(
        cells,
        store,
        Compute(store.path, make_solver),
        group_of=group_of,
        failed=failed,
        watch=lambda done: progress("solving", done),
        workers=workers,
        in_order=_spread,
    )


def _spread(cells: Sequence[Cell]) -> list[Cell]:
    """Cells of other scores first, so that processes begin by scoring different tasks."""
    devices: defaultdict[str, dict[str, int]] = defaultdict(dict)
    rank = {}
    for cell in cells:
        seen = devices[cell.importance_key]
        rank[cell.key] = seen.setdefault(cell.device_digest, len(seen))
    return sorted(cells, key=lambda cell: rank[cell.key])
