"""Hostile files of arrays: each refused in one line, whatever it claims to hold."""

import io
import re
import tracemalloc
import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from costsim.base.errors import InputError, Note
from costsim.base.files import read_file
from costsim.data.arrays import open_arrays
from costsim.data.numpy_files import NpzFile, array_of


def header(shape: str, kind: str = "|u1") -> bytes:
    """An `.npy` file's, in which anything may be claimed."""
    text = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + (len(text) + 1).to_bytes(2, "little") + text + b"\n"


def npz(x: bytes, method: int = zipfile.ZIP_DEFLATED, **more: bytes) -> bytes:
    """An archive of `x` and two labels, or others."""
    labels, file = io.BytesIO(), io.BytesIO()
    np.save(labels, np.array([0, 1]))
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in {"x": x, "y": labels.getvalue(), **more}.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def changed(content: bytes, *places: int, to: int) -> bytes:
    """With other bytes at these places."""
    data = bytearray(content)
    for place in places:
        data[place] = to
    return bytes(data)


TWO = npz(header("(2, 3)") + bytes(6))
CENTRAL = TWO.index(b"PK\1\2")
HOSTILE = {
    **{f"{n} rows.npz": npz(header(f"({n},)")) for n in (10**8, 10**10, 10**14, 10**20, -1)},
    "25 MB of zeros.npz": npz(header("(25000000,)") + bytes(25 * 10**6)),
    "a number.npz": npz(header("()") + b"1"),
    "a truth for a size.npz": npz(header("(True,)") + b"1"),
    "a fraction for a size.npz": npz(header("(2.0,)") + b"12"),
    "a hundred dimensions.npz": npz(header(f"{(1,) * 100}") + b"1"),
    "nested.npz": npz(header("(" * 900 + ")" * 900)),
    "long elements.npz": npz(header("(2,)", "<U2000000000")),
    "no elements.npz": npz(header("(1000000000,)", "|S0")),
    "rows of nothing.npz": npz(header("(1000000000, 0)"), y=header("(1000000000,)", "<U0")),
    "labels of nothing.npz": npz(header("(70000, 0)"), y=header("(70000,)", "|S0")),
    "a long side.npz": npz(header("(0, 1000000000000)")),
    "one name in two cases.npz": npz(header("(2,)") + b"12", Y=header("(2,)") + b"12"),
    "objects.npz": npz(header("(2,)", "|O") + b"cos\nsystem\n(S'id'\ntR."),
    "no array.npz": npz(b"hello"),
    "half a header.npz": npz(b"\x93NUMPY\x01\x00\xff\xff"),
    "another version.npz": npz(b"\x93NUMPY\x09\x00\xff\xff"),
    "an encrypted one.npz": changed(changed(TWO, 6, to=1), CENTRAL + 8, to=1),
    "an unknown method.npz": changed(TWO, 8, CENTRAL + 10, to=99),
    "damaged LZMA.npz": changed(npz(bytes(99), zipfile.ZIP_LZMA), 50, 55, 60, to=255),
    "a long cell.csv": b"a,label\n" + b"1" * 200_000 + b",x\n",
    "no text.csv": b"a,label\n\xff,x\n",
    "a pickle.npy": b"\x80\x04N.",
    "nothing.npz": b"",
}
"""Small files that have made a reader work, fill memory or end in a traceback."""


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line_and_in_little_memory(
    name: str, tmp_path: Path
) -> None:
    """Memory that is asked for counts, whether or not the system would give it."""
    path = tmp_path / name
    path.write_bytes(HOSTILE[name])
    np.save(tmp_path / "labels.npy", np.array([0, 1]))
    assert path.stat().st_size < 300_000
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=re.escape(name)) as caught:
            open_arrays(path)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(str(caught.value).splitlines()) == 1
    assert most < 100 * 10**6


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["u1", ">i2", "<f8", "<U3"])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3), (2, 1, 4)])
def test_arrays_are_as_numpy_reads_them(
    shape: tuple[int, ...], kind: str, order: Literal["C", "F"]
) -> None:
    size = int(np.prod(shape))
    wanted = np.arange(size).astype(kind).reshape(shape).copy(order)
    file = io.BytesIO()
    np.save(file, wanted)
    found = array_of(file.getvalue(), "x")
    assert found.dtype == wanted.dtype
    assert np.array_equal(found, wanted)


def test_members_are_named_as_numpy_names_them(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, one=np.eye(3), two=np.arange(3))
    file = NpzFile(path)
    with np.load(path) as wanted:
        assert file.names == wanted.files
    assert np.array_equal(file["one"], np.eye(3))


def test_an_array_given_twice_is_refused_and_what_lies_behind_one_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(npz(header("(2,)") + b"12"))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("y.npy", header("(2,)") + b"12")
    with pytest.raises(InputError, match="holds two arrays of one name"):
        open_arrays(path)
    two = tmp_path / "b.npy"
    with two.open("wb") as file:
        np.save(file, np.zeros((2, 3)))
        np.save(file, np.ones((2, 3)))
    np.save(tmp_path / "labels.npy", np.array([0, 1]))
    with pytest.warns(Note, match=r"b\.npy: has 176 bytes behind its array, which are not read"):
        open_arrays(two)


def test_what_gives_bytes_for_ever_is_read_no_longer_than_a_text(tmp_path: Path) -> None:
    for name in ("a.npz", "a.csv", "a.npy"):
        (tmp_path / name).symlink_to("/dev/zero")
        with pytest.raises(InputError, match=r"more than the 67,108,864 bytes|no labels beside it"):
            open_arrays(tmp_path / name)


def test_a_file_is_read_with_no_more_memory_than_it_has(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    tracemalloc.start()
    try:
        assert read_file(path, 2**32) == b"12345"
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert read_file(path, 5) == b"12345"
    for long, most in ((path, 4), (Path("/dev/zero"), 3 * 2**20)):
        with pytest.raises(InputError, match="has more than"):
            read_file(long, most)
