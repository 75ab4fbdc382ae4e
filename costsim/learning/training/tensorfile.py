"""Tensors and one JSON header in a safetensors file: written whole, read without running anything.

The header is one string in the file's metadata under `costsim`, because the order of several
would differ from one writing to the next.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load, save
from torch import Tensor

from costsim.base.errors import InputError, shortened, shown
from costsim.base.files import parse_json, read_file, write_atomically

_KEY = "costsim"
_DIGEST = "sha256"

MAXIMUM_BYTES = 2**32
"""Of a file; a longer one is none of ours."""


class Header(BaseModel):
    """What a file says about its tensors: known keys only, no coercion, finite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


H = TypeVar("H", bound=Header)


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], schema: str = "", header: Header | None = None
) -> None:
    """Write `tensors` to `path`, whole or not at all; without a header a plain state dict."""
    # Cloned: safetensors refuses tensors that share memory.
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    metadata = None
    if header is not None:
        document = {"schema": schema, **header.model_dump(mode="json")}
        document[_DIGEST] = content_digest(document, plain)
        metadata = {_KEY: json.dumps(document, allow_nan=False)}
    write_atomically(path, save(plain, metadata))


def read_tensors(path: Path, schema: str, kind: type[H]) -> tuple[H, dict[str, Tensor]]:
    """The header and the tensors of a file of this schema.

    Raises `InputError` naming the file for one that is missing, cut short, damaged or of another
    kind, and the key for a header that is not as `kind` says; one changed byte is damage.
    """
    data = read_file(path, MAXIMUM_BYTES)
    try:
        tensors = load(data)
        length = int.from_bytes(data[:8], "little")
        metadata = parse_json(data[8 : 8 + length], "header").get("__metadata__") or {}
        document: Any = parse_json(metadata[_KEY], _KEY) if _KEY in metadata else {}
    except Exception as error:  # what a damaged file raises depends on where it was cut
        raise InputError(
            f"{path}: is cut short, damaged or no safetensors file ({type(error).__name__})"
        ) from error
    found = document.get("schema") if isinstance(document, dict) else None
    if found != schema:
        told = "has no header of this program" if found is None else f"schema {shown(found)}"
        raise InputError(f"{path}: {told}; {schema!r} is needed")
    if document.pop(_DIGEST, None) != content_digest(document, tensors):
        raise InputError(f"{path}: is damaged: what it holds is not what was written")
    del document["schema"]
    try:
        # As JSON: what is a tuple here is a list there.
        return kind.model_validate_json(json.dumps(document)), tensors
    except ValidationError as error:
        raise InputError(f"{path}: {_first(error)}") from error


def content_digest(document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a header and the tensors beside it: safetensors has no checksum of its own."""
    found = hashlib.sha256(json.dumps(document, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = shortened(".".join(str(part) for part in first["loc"])) or "header"
    return f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}"


def check_names(path: Path, tensors: Mapping[str, Tensor], wanted: Mapping[str, object]) -> None:
    """Raise `InputError` unless the file holds exactly the tensors that `wanted` names."""
    for name in wanted:
        if name not in tensors:
            raise InputError(f"{path}: tensor {name!r} is missing")
    for name in tensors:
        if name not in wanted:
            raise InputError(f"{path}: tensor {name!r} does not belong there")
