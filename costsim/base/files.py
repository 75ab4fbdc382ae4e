"""Reading and writing files that people keep: written whole or not at all.

What is half made stands beside its place and is locked by whoever makes it. A process that is
killed leaves it there without its lock, and the next one that writes the same clears it away.
"""

import hashlib
import json
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from costsim.base.errors import InputError, shortened, shown

if sys.platform != "win32":
    import fcntl

MAXIMUM_TEXT_BYTES = 64 * 2**20
"""Of a file that people write or keep as text; a longer one is taken for a mistake."""

READ_BYTES = 2**20
"""At a time, of what does not say how long it is."""

# No JSON string holds a raw line break, so that this never matches inside one.
_NUMBERS = re.compile(r"(?<=: )\[\n[\s\d.,eE+-]+\]")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` to `path` so that a reader sees the old file or the new one, never half.

    A link is followed; what is no file (a terminal, a pipe, `/dev/null`) is written to directly.
    Text that UTF-8 has no bytes for is written escaped. Raises `InputError` if the folder is
    missing or cannot be written.
    """
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    try:
        mode = mode_of(path)
        if mode is not None and not stat.S_ISREG(mode):
            path.write_bytes(data)
            return
        path = resolved(path)
        with _half_made(path) as (handle, half):
            with os.fdopen(handle, "wb", closefd=False) as file:
                file.write(data)
            os.fsync(handle)
            half.replace(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{told_path(path)}: cannot be written: {why(error)}") from error


def mode_of(path: Path) -> int | None:
    """The mode of what is at `path`, links followed; None where nothing is.

    Raises `OSError` or `ValueError` for a path that nothing can be at: too long, a link that leads
    to itself, with a NUL in it.
    """
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def resolved(path: Path) -> Path:
    """`path` without links; a link that leads to itself stays."""
    return Path(os.path.realpath(path))


def is_there(path: Path) -> bool:
    """Whether something is at `path`; a path that nothing can be at is no error."""
    try:
        return mode_of(path) is not None
    except (OSError, ValueError):
        return False


def user_path(text: str) -> Path:
    """A path as a person writes it, with `~` or `~user` for a home; raises `InputError`."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise InputError(f"{shortened(text)}: {' '.join(str(error).split())}") from error


def told_path(path: Path | str) -> str:
    """A path as a message names it: on one line, its middle left out where it is very long."""
    text = str(path).encode("utf-8", "backslashreplace").decode()
    return shortened("".join(c if c.isprintable() else ascii(c)[1:-1] for c in text), 300)


def why(error: Exception) -> str:
    """What the system said, on one line."""
    told = error.strerror if isinstance(error, OSError) else None
    return " ".join(str(told or error).split()) or type(error).__name__


@contextmanager
def _half_made(path: Path) -> Iterator[tuple[int, Path]]:
    """An empty file beside `path` that nobody else writes to, and its name; gone at the end."""
    half = path.with_name(f".{path.name}.half")
    handle = _ours(half)
    if handle is None:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        half = Path(name)
        half.chmod(0o666 & ~_umask())
    try:
        os.ftruncate(handle, 0)
        yield handle, half
    finally:
        if _is(half, handle):
            half.unlink()
        os.close(handle)


def _ours(half: Path) -> int | None:
    """A file opened and locked; None while another writer has it, and where there are no locks."""
    if sys.platform == "win32":
        return None
    handle = os.open(half, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is(half, handle):
            return handle
    os.close(handle)
    return None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _is(path: Path, handle: int) -> bool:
    """Whether an open file is the one at `path` now."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(handle))
    except OSError:
        return False


@contextmanager
def scratch_folder(parent: Path | None = None, prefix: str = "costsim-run-") -> Iterator[Path]:
    """A new folder for as long as the context is open, in `parent` or where temporary files go.

    Those of the same `prefix` whose processes were killed are removed first. Raises `OSError`.
    """
    above = Path(tempfile.gettempdir()) if parent is None else parent
    with suppress(OSError):  # such as where a folder may be written and not listed
        for other in above.iterdir():
            if other.name.startswith(prefix):
                _sweep(other)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=above))
        handle: int | None = None
        try:
            handle = _locked(folder)
        except (FileNotFoundError, BlockingIOError):  # swept in the moment before it was locked
            continue
        except OSError:  # no locks here, so that nobody sweeps either
            pass
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if handle is not None:
                os.close(handle)
        return


def _sweep(folder: Path) -> None:
    """Remove a folder that nobody has locked; what is another user's stays."""
    with suppress(OSError):
        handle = _locked(folder)
        try:
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(handle)


def _locked(folder: Path) -> int:
    """A folder opened and locked; raises `OSError` where it is gone or somebody else's."""
    if sys.platform == "win32":
        raise OSError("folders cannot be locked")
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is(folder, handle):
            raise FileNotFoundError(folder)
    except OSError:
        os.close(handle)
        raise
    return handle


def to_json_text(document: object) -> str:
    """One JSON document, indented, but with each list of plain numbers on a line of its own."""
    text = json.dumps(document, indent=2, allow_nan=False)
    return _NUMBERS.sub(
        lambda found: re.sub(r"\s+", " ", found[0]).replace("[ ", "[").replace(" ]", "]"), text
    )


def write_json(path: Path, document: object) -> None:
    """Write one JSON document, atomically."""
    write_atomically(path, to_json_text(document) + "\n")


def read_file(path: Path, most_bytes: int = MAXIMUM_TEXT_BYTES) -> bytes:
    """The whole of `path`, a pipe too; raises `InputError`, for more than `most_bytes` as well.

    No more than that is ever read: not of a file that grows, and of what gives bytes for ever, such
    as `/dev/zero`, no more than of a text.
    """
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if stat.S_ISCHR(found.st_mode):
                most_bytes = min(most_bytes, MAXIMUM_TEXT_BYTES)
            # To read takes as much memory as is asked for, however little there is.
            asked = min(found.st_size, most_bytes) + 1
            parts = [file.read(asked)]
            left = most_bytes + 1 - asked
            while left > 0 and len(parts[-1]) == asked:
                asked = min(READ_BYTES, left)
                parts.append(file.read(asked))
                left -= asked
        content = b"".join(parts)
    except (OSError, ValueError) as error:
        raise InputError(f"{told_path(path)}: cannot be read: {why(error)}") from error
    if len(content) > most_bytes:
        raise InputError(f"{told_path(path)}: has more than the {most_bytes:,} bytes allowed")
    return content


def file_sha256(path: Path) -> str | None:
    """SHA-256 of a file's bytes, in hexadecimal; None for what is no file or cannot be read."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):
        return None


def read_json(path: Path) -> Any:
    """The JSON document in `path`; raises `InputError` naming the file and the place."""
    return parse_json(read_file(path), told_path(path))


def parse_json(content: bytes | str, source: str) -> Any:
    """The JSON document that a text is, no key given twice; `source` names it in `InputError`."""
    try:
        text = content.decode("utf-8") if isinstance(content, bytes) else content
        return json.loads(text, object_pairs_hook=_once)
    except RecursionError as error:
        raise InputError(f"{source}: is nested too deeply to be read") from error
    except ValueError as error:  # of JSON, of UTF-8, of a number too long for Python
        raise InputError(f"{source}: is not JSON: {' '.join(str(error).split())}") from error


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; which of two values of a key counts is for nobody to guess."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {shown(twice)} is given twice")
    return found
