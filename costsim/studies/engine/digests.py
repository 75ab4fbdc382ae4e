"""Digests of what an answer depends on: the content of files, not their names."""

import hashlib
import json
from functools import lru_cache
from pathlib import Path

from costsim.base.errors import InputError
from costsim.base.trust import code_digest
from costsim.data import is_of_hub
from costsim.device import DeviceSpec, load_device
from costsim.models.networks.shipped import RANDOM, shipped_weights

LENGTH = 24
"""Hexadecimal digits."""


def digest(document: object) -> str:
    """Of a JSON document."""
    text = json.dumps(document, sort_keys=True, default=str, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


def device_digest(device: DeviceSpec) -> str:
    """Of all numbers of a device."""
    return digest(device.model_dump(mode="json", warnings=False))


@lru_cache(maxsize=256)
def unchanged_device(name: str, told: str) -> DeviceSpec:
    """The device called `name`, read once for all cells of a process.

    Raises `InputError` where its digest is no longer `told`: the file has changed since the study
    began, and the rows are of what was in it then.
    """
    device = load_device(name)
    if device_digest(device) != told:
        raise InputError(f"{name}: has changed since the study began; start it again")
    return device


def dated(name: str) -> str:
    """`name`; of code with a digest of what it is, so that code that changed is computed anew."""
    found = code_digest(name)
    return f"{name} {found[:16]}" if found else name


def model_digest(model: str, weights: Path | None) -> str:
    """Of a model's weights: those given, else those it comes with, else its program or the code
    that makes it; else empty."""
    if weights == RANDOM:
        return str(RANDOM)
    found = shipped_weights(model) if weights is None else weights
    if found is not None:
        return file_digest(found)
    path = Path(model)
    if code := code_digest(model):
        return code[:LENGTH]
    return file_digest(path) if model.endswith(".pt2") and path.is_file() else ""


def images_digest(data: Path | None) -> str:
    """Of a source of images; of the digits, and of a dataset of the hub, the name."""
    if data is None or is_of_hub(data):
        return "digits" if data is None else str(data)
    return file_digest(data)


@lru_cache(maxsize=256)
def file_digest(path: Path) -> str:
    """Of a file's bytes; of a folder's names and sizes. Raises `InputError`."""
    found = hashlib.sha256()
    try:
        if path.is_dir():
            for file in sorted(p for p in path.rglob("*") if p.is_file()):
                found.update(f"{file.relative_to(path)} {file.stat().st_size}\n".encode())
        else:
            with path.open("rb") as stream:
                while block := stream.read(1 << 20):
                    found.update(block)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    return found.hexdigest()[:LENGTH]
