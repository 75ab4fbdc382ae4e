"""Reading and writing files that people keep: written whole or not at all."""

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from costsim.base.errors import InputError

# No JSON string holds a raw line break, so that this never matches inside one.
_NUMBERS = re.compile(r"(?<=: )\[\n[\s\d.,eE+-]+\]")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` to `path` so that a reader sees the old file or the new one, never half.

    A link is followed; what is no file (a terminal, a pipe, `/dev/null`) is written to directly.
    Raises `InputError` if the folder is missing or cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary: str | None = None
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
            return
        path = path.resolve()
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def to_json_text(document: object) -> str:
    """One JSON document, indented, but with each list of plain numbers on a line of its own."""
    text = json.dumps(document, indent=2, allow_nan=False)
    return _NUMBERS.sub(
        lambda found: re.sub(r"\s+", " ", found[0]).replace("[ ", "[").replace(" ]", "]"), text
    )


def write_json(path: Path, document: object) -> None:
    """Write one JSON document, atomically."""
    write_atomically(path, to_json_text(document) + "\n")


def read_json(path: Path) -> Any:
    """The JSON document in `path`; raises `InputError` naming the file and the place."""
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not JSON: {error}") from error
    except RecursionError as error:
        raise InputError(f"{path}: is nested too deeply to be read") from error
