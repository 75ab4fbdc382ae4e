"""Work divided into cells, each computed once: a store that survives kills, and processes."""

from costsim.cells.done import Done
from costsim.cells.processes import run_cells, single_threaded, worker_begins
from costsim.cells.store import CellStore

__all__ = ["CellStore", "Done", "run_cells", "single_threaded", "worker_begins"]
