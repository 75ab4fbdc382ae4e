"""Work divided into cells, each computed once: a store that survives kills, and processes."""

from costsim.cells.claims import Claims
from costsim.cells.done import Done
from costsim.cells.missing import run_missing
from costsim.cells.owner import Owner
from costsim.cells.processes import run_cells, single_threaded, worker_begins
from costsim.cells.store import CellStore, Claim
from costsim.experiment.digests import device_digest, digest, images_digest, model_digest
from costsim.experiment.reading import LIMITS, FileReader, images_name, read_document

__all__ = [
    "LIMITS",
    "CellStore",
    "Claim",
    "Claims",
    "Done",
    "FileReader",
    "Owner",
    "device_digest",
    "digest",
    "images_digest",
    "images_name",
    "model_digest",
    "read_document",
    "run_cells",
    "run_missing",
    "single_threaded",
    "worker_begins",
]
