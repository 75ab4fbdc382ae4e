"""The tensors in a weights file of any kind, told by its content; nothing in a file is run."""

import json
import stat
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from costsim.base.errors import InputError, shown
from costsim.base.files import told_path, why
from costsim.models.networks.int8 import MAXIMUM_BYTES, read_arrays

_LARGEST_HEADER_BYTES = 100_000_000
"""Of a safetensors file, by its own specification."""


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do: a length, then a JSON object of that length."""
    with path.open("rb") as file:
        head = file.read(9)
    length = int.from_bytes(head[:8], "little")
    return head[8:] == b"{" and 2 <= length <= _LARGEST_HEADER_BYTES


def read_document(path: Path) -> Mapping[str, Any]:
    """What a weights file holds: safetensors, a pickle of arrays, or what `torch.save` wrote.

    Raises `InputError` for a file that is missing, too large, damaged, of another kind, or that
    holds more than tensors.
    """
    where = told_path(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
            raise InputError("is no file; weights are read in any order")
        if status.st_size > MAXIMUM_BYTES:
            raise InputError(f"is larger than {MAXIMUM_BYTES >> 30} GiB")
        document: Any
        if is_safetensors(path):
            document = _read_safetensors(path)
        elif (document := read_arrays(path)) is None:
            with warnings.catch_warnings():  # of the pickle protocol, before it is refused
                warnings.simplefilter("ignore", UserWarning)
                document = torch.load(path, map_location="cpu", weights_only=True)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    except OSError as error:
        raise InputError(f"{where}: cannot be read: {why(error)}") from error
    except Exception as error:  # what a damaged file raises depends on where it was cut
        raise InputError(f"{where}: {_reason(path, error)}") from error
    if not isinstance(document, Mapping):
        raise InputError(f"{where}: holds a {type(document).__name__}, not a mapping of weights")
    return document


def read_state(path: Path) -> Mapping[str, Tensor]:
    """The state dict in a weights file: names and tensors, maybe under `state_dict` or `model`."""
    return state_of(read_document(path), path)


def state_of(document: Mapping[str, Any], path: Path) -> Mapping[str, Tensor]:
    """The state dict in what `read_document` read; raises `InputError` where it holds others."""
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(document.get(key), Mapping):
            document = document[key]
            break
    if not document or not all(isinstance(value, Tensor) for value in document.values()):
        odd = next((key for key, value in document.items() if not isinstance(value, Tensor)), None)
        told = "is empty" if odd is None else f"{shown(odd)} is a {type(document[odd]).__name__}"
        raise InputError(
            f"{told_path(path)}: is not a state dict, a mapping of names to tensors: {told}"
        )
    return document


def _read_safetensors(path: Path) -> Mapping[str, Tensor]:
    from safetensors.torch import load

    return load(path.read_bytes())


def _reason(path: Path, error: Exception) -> str:
    """Why it cannot be used, so far as content and error tell."""
    text = " ".join(str(error).split())
    if "Unsupported global" in text or "Unsupported class" in text:
        wanted = (text.split("GLOBAL ", 1)[-1].split() or ["?"])[0]
        return f"the pickle asks for {wanted}; only tensors are read"
    try:
        index = json.loads(path.read_bytes()[:1_000_000])
    except (OSError, ValueError, RecursionError):
        index = None
    if isinstance(index, dict) and "weight_map" in index:
        return "lists the files of a network in parts; put them together in one file first"
    return (
        "is not a weight file, or is damaged: neither safetensors nor what torch.save wrote "
        f"({type(error).__name__})"
    )
