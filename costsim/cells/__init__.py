"""Work divided into cells, each computed once: a store that survives kills, and processes."""

from costsim.cells.claims import Claims
from costsim.cells.done import Done
from costsim.cells.missing import run_missing
from costsim.cells.owner import Owner
from costsim.cells.processes import run_cells, single_threaded, worker_begins
from costsim.cells.store import CellStore, Claim

__all__ = [
    "CellStore",
    "Claim",
    "Claims",
    "Done",
    "Owner",
    "run_cells",
    "run_missing",
    "single_threaded",
    "worker_begins",
]
