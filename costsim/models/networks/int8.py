"""The files of the int8 networks of "On-Device Training Under 256KB Memory" (Lin et al., 2022)."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from costsim.base.errors import InputError
from costsim.models.networks.restricted_pickle import loads_restricted

MAXIMUM_BYTES = 2**30
UNPACKED_BYTES = 16 * 2**20
UNPACKED_FACTOR = 100


def read_arrays(path: Path) -> Any | None:
    """The document in a `torch.save` archive that stores no tensors beside it.

    None for a file of another kind. Raises `InputError` for a pickle that asks for anything but
    arrays, and one that is too large; `OSError` where the file cannot be read.
    """
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return None
    with zipfile.ZipFile(path) as archive:
        check_unpacked(archive, path.stat().st_size)
        names = archive.namelist()
        pickles = [item for item in names if item.endswith("/data.pkl")]
        if len(pickles) != 1 or any("/data/" in item for item in names):
            return None
        return loads_restricted(archive.read(pickles[0]))


def check_unpacked(archive: zipfile.ZipFile, size_bytes: int) -> None:
    """Raise `InputError` for an archive of `size_bytes` that says it unpacks to far more.

    torch stores its records as they are; a reader takes what they say they need at once.
    """
    most = min(MAXIMUM_BYTES, UNPACKED_BYTES + UNPACKED_FACTOR * size_bytes)
    if sum(info.file_size for info in archive.infolist()) > most:
        raise InputError(f"the archive unpacks to more than {most:,} bytes")


def is_int8(document: object) -> bool:
    """Whether a document is an int8 network."""
    return isinstance(document, Mapping) and {"first_conv", "blocks"} <= document.keys()


def int8_layers(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The convolutions of a network, in order; each has its numbers in `params`.

    Raises `KeyError` and `TypeError` where the document is not what it seems.
    """
    layers = [document["first_conv"]]
    for block in document["blocks"]:
        stages = (block[stage] for stage in ("pointwise1", "depthwise", "pointwise2"))
        layers += [stage for stage in stages if stage is not None]
    if document.get("feature_mix") is not None:
        layers.append(document["feature_mix"])
    return layers
