"""What experiment files have in common: how they are read, and what makes two cells the same."""

from costsim.experiment.digests import device_digest, digest, images_digest, model_digest
from costsim.experiment.reading import LIMITS, FileReader, images_name, read_document

__all__ = [
    "LIMITS",
    "FileReader",
    "device_digest",
    "digest",
    "images_digest",
    "images_name",
    "model_digest",
    "read_document",
]
