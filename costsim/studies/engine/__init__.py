"""The engine of studies: a file read, cells computed once each, rows kept and resumed.

    spec ──► Study ──► cells ──► runner ──► seats of a pool (local processes, a Dask cluster)
                                    │
                                    └──► StudyStore (SQLite)

What a kind of studies has of its own is a `Kind`: columns, cells, and a `Workshop` that computes
them. Its analysis is its own too.
"""

from costsim.studies.engine.cell import Cell, ModelChoice, Study
from costsim.studies.engine.cell_store import CellStore, Claim
from costsim.studies.engine.claimant import Owner
from costsim.studies.engine.claims import Claims
from costsim.studies.engine.digests import (
    dated,
    device_digest,
    digest,
    images_digest,
    model_digest,
    unchanged_device,
)
from costsim.studies.engine.kind import Kind
from costsim.studies.engine.progress import Done
from costsim.studies.engine.reading import LIMITS, FileReader, images_name, read_document
from costsim.studies.engine.runner import run_study
from costsim.studies.engine.spec import parse_study, read_entries, read_study
from costsim.studies.engine.store import StudyStore
from costsim.studies.engine.workshop import Computed, Workshop, failed

__all__ = [
    "LIMITS",
    "Cell",
    "CellStore",
    "Claim",
    "Claims",
    "Computed",
    "Done",
    "FileReader",
    "Kind",
    "ModelChoice",
    "Owner",
    "Study",
    "StudyStore",
    "Workshop",
    "dated",
    "device_digest",
    "digest",
    "failed",
    "images_digest",
    "images_name",
    "model_digest",
    "parse_study",
    "read_document",
    "read_entries",
    "read_study",
    "run_study",
    "unchanged_device",
]
