"""Arrays in `.npy` and `.npz` files, in bounds: never more memory than a file has reason for.

NumPy makes an array as large as a header says before it looks whether so much follows, unpacks
whatever a member holds, and gives back the bytes of one that is no array.
"""

import io
import math
import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from costsim.base.errors import note
from costsim.base.files import read_file, told_path
from costsim.data.containers import most_unpacked

LARGEST_BYTES = 2**32
"""Of a file, and of what is unpacked of it."""

MOST_OF_NOTHING = 2**16
"""Of any side of an array without elements, which takes no bytes, however many rows it has."""

_SUFFIX = ".npy"
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
    (3, 0): np.lib.format.read_array_header_2_0,  # but for names of fields, which no number has
}


def read_npy(path: Path) -> NDArray[Any]:
    """The array of an `.npy` file; raises `ValueError` and whatever NumPy does for another."""
    return array_of(read_file(path, LARGEST_BYTES), told_path(path))


def array_of(content: bytes, source: str) -> NDArray[Any]:
    """The array of such a file's bytes, which it lies in: nothing is copied.

    Bytes behind it are told of, by the name `source`.
    """
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"is of version {version} of the format; at most (3, 0) is read")
    shape, is_fortran, dtype = _HEADERS[version](stream)
    if dtype.hasobject:
        raise ValueError("holds Python objects, which are never loaded")
    here = len(content) - stream.tell()
    if min(shape, default=0) < 0 or max(shape, default=0) > max(here, MOST_OF_NOTHING):
        raise ValueError(f"an array of {shape} is none that {here:,} bytes can hold")
    needed = math.prod(shape) * max(dtype.itemsize, 1)
    if needed > here:
        raise ValueError(f"an array of {shape} in {dtype} is {needed:,} bytes; it has {here:,}")
    if needed < here:
        note(f"{source}: has {here - needed:,} bytes behind its array, which are not read")
    order: Literal["F", "C"] = "F" if is_fortran else "C"
    return np.ndarray(shape, dtype, buffer=content, offset=stream.tell(), order=order)


class NpzFile:
    """The arrays of an `.npz` file by name; each is unpacked when it is asked for."""

    def __init__(self, path: Path) -> None:
        content = read_file(path, LARGEST_BYTES)
        self._source = told_path(path)
        self._archive = zipfile.ZipFile(io.BytesIO(content))
        self._left = min(LARGEST_BYTES, most_unpacked(len(content)))
        members = [m for m in self._archive.infolist() if m.filename.endswith(_SUFFIX)]
        self._members = {member.filename.removesuffix(_SUFFIX): member for member in members}
        if len(self._members) < len(members):
            raise ValueError("holds two arrays of one name")

    @property
    def names(self) -> list[str]:
        """What it calls them, as they lie in it."""
        return list(self._members)

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Raises `ValueError` for one that is no array or unpacks to far more than the file is."""
        member = self._members[name]
        if member.file_size > self._left:
            raise ValueError(
                f"{name!r} unpacks to {member.file_size:,} bytes, far more than the file has; "
                "save it with numpy.savez, which packs nothing"
            )
        self._left -= member.file_size
        try:
            return array_of(self._archive.read(member), f"{self._source}: {name!r}")
        except ValueError as error:
            raise ValueError(f"{name!r}: {error}") from error
