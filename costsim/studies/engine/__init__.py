"""Work divided into cells, each computed once: a store that survives kills, and processes."""

from costsim.studies.engine.cell_store import CellStore, Claim
from costsim.studies.engine.claimant import Owner
from costsim.studies.engine.claims import Claims
from costsim.studies.engine.digests import device_digest, digest, images_digest, model_digest
from costsim.studies.engine.processes import run_cells, single_threaded, worker_begins
from costsim.studies.engine.progress import Done
from costsim.studies.engine.reading import LIMITS, FileReader, images_name, read_document
from costsim.studies.engine.run import run_missing

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
