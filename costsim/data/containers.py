"""Where image files lie: a folder, a tar (plain or compressed), a zip. Nothing is ever unpacked.

A container gives the names of its files, then the bytes of some of them in one forward pass.
Names are only ever compared, never opened as paths, so a hostile one can do no harm; what a small
archive may unpack to, and how many folders links may lead to, is bounded.
"""

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from costsim.base.errors import InputError, note
from costsim.base.files import told_path, why
from costsim.base.progress import Progress

MAXIMUM_FILE_BYTES = 256 * 1024 * 1024
"""A longer file is not taken for an image."""

MAXIMUM_DEPTH = 8
"""Folders below a folder are looked into down to here."""

MAXIMUM_LINKED_FOLDERS = 10_000
"""Folders that are reached through links; a few links can stand for any number of them."""

UNPACKED_BYTES = 16 * 2**20
UNPACKED_FACTOR = 100
"""A compressed archive may unpack to so many bytes, and so many times its size; images and their
names, compressed again, come nowhere near."""

_MAGIC: Mapping[bytes, Callable[[IO[bytes], str], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
    b"]\0\0": lzma.open,
}
_OTHER_KINDS = {b"7z\xbc\xaf": "7z", b"Rar!": "rar", b"\x28\xb5\x2f\xfd": "zstd"}
_LITTER = frozenset({"__macosx", "thumbs.db", "desktop.ini", ".ds_store"})
"""What systems put beside files, in lower case."""


@dataclass(frozen=True)
class Names:
    """The clean names of a container's files, and of those that are hidden; in no order."""

    files: list[str]
    hidden: list[str]


def clean_name(raw: str) -> str | None:
    """A file's name as `a/b/c`, or None for one that is no name or what a system left there."""
    parts = [part for part in PurePosixPath(raw).parts if part not in ("/", "//")]
    if not parts or any(part.startswith("._") or part.lower() in _LITTER for part in parts):
        return None
    name = "/".join(parts).encode("utf-8", "backslashreplace").decode()
    return name.replace("\n", "\\n").replace("\r", "\\r")  # an error is one line


def is_hidden(name: str) -> bool:
    """Whether a file, or a folder that it is in, has a name that begins with a dot."""
    return name.startswith(".") or "/." in name


@dataclass(frozen=True)
class Container(ABC):
    """Files under one path, by name."""

    path: Path

    @abstractmethod
    def names(self, progress: Progress | None = None) -> Names:
        """The clean names of all its files."""

    @abstractmethod
    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """The bytes of these files, in the order the container has them."""

    def where(self, name: str) -> str:
        """A file for a person: the container and the name in it."""
        return f"{told_path(self.path)}: {told_path(name)}"

    @contextmanager
    def _readable(self, member: str | None = None) -> Iterator[None]:
        """One clear line for everything a damaged or forbidden file can raise."""
        where = told_path(self.path) if member is None else self.where(member)
        try:
            yield
        except PermissionError as error:
            name = error.filename or self.path
            raise InputError(f"{told_path(name)}: no permission to read it") from error
        except (
            tarfile.TarError,
            zipfile.BadZipFile,
            zlib.error,
            lzma.LZMAError,
            EOFError,
            NotImplementedError,
            RuntimeError,
            ValueError,
            OSError,
        ) as error:
            raise InputError(f"{where}: damaged or truncated: {why(error)}") from error

    def _check_size(self, name: str, size_bytes: int) -> None:
        if size_bytes > MAXIMUM_FILE_BYTES:
            raise InputError(
                f"{self.where(name)}: {size_bytes:,} bytes; "
                f"an image has at most {MAXIMUM_FILE_BYTES:,}"
            )


@dataclass(frozen=True)
class Directory(Container):
    """A folder. Links are followed, but not to a folder that they lie in."""

    def names(self, progress: Progress | None = None) -> Names:
        """Names of all files in it and below."""
        found = _Sorted(progress)
        with self._readable():
            for name, _ in _Walk().below(self.path):
                found.add(name)
        return found.names

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """The bytes of these files, folder by folder."""
        folders = {name.rpartition("/")[0] for name in names}
        wanted = {part for folder in folders for part in _parents(folder)}
        with self._readable():
            files = [(name, file) for name, file in _Walk(wanted).below(self.path) if name in names]
        for name, file in files:
            with self._readable():
                self._check_size(name, file.stat().st_size)
                data = file.read_bytes()
            yield name, data


@dataclass
class _Walk:
    """Goes through folders: through `only` these, if given; `linked` counts those behind links."""

    only: Collection[str] | None = None
    linked: int = 0

    def below(
        self,
        folder: Path,
        prefix: str = "",
        above: tuple[tuple[int, int], ...] = (),
        behind_link: bool = False,
    ) -> Iterator[tuple[str, Path]]:
        """Files below `folder` by their clean names; `above` are the folders that it lies in.

        Of a hidden folder only its own files, so that a repository's are not gone through.
        """
        status = folder.stat()
        above = (*above, (status.st_dev, status.st_ino))
        for entry in sorted(folder.iterdir()):
            name = clean_name(f"{prefix}{entry.name}")
            if name is None:
                continue
            if entry.is_file():
                yield name, entry
            elif entry.is_dir() and len(above) <= MAXIMUM_DEPTH and not is_hidden(prefix):
                inside = entry.stat()
                is_above = (inside.st_dev, inside.st_ino) in above
                if is_above or (self.only is not None and name not in self.only):
                    continue
                linked = behind_link or entry.is_symlink()
                self.linked += linked
                if self.linked > MAXIMUM_LINKED_FOLDERS:
                    raise InputError(
                        f"{told_path(folder)}: links lead to more than "
                        f"{MAXIMUM_LINKED_FOLDERS:,} folders"
                    )
                yield from self.below(entry, f"{name}/", above, linked)


@dataclass(frozen=True)
class Tar(Container):
    """A tar archive, plain or compressed (gzip, bzip2, xz), read from front to back.

    Links inside the archive are not followed. Of two members of one name the later counts.
    """

    _repeated: dict[str, int] = field(default_factory=dict, compare=False, repr=False)
    """How often names are there that are there more than once; known after `names`."""

    def names(self, progress: Progress | None = None) -> Names:
        """Names of all its files."""
        found = _Sorted(progress)
        self._repeated.clear()
        with self._readable(), self._opened() as archive:
            for member in archive:
                name = clean_name(member.name) if member.isreg() else None
                if name is not None and not found.add(name):
                    self._repeated[name] = self._repeated.get(name, 1) + 1
            self._check_end(archive)
        return found.names

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """The bytes of these members, in the order they lie in."""
        left = dict(self._repeated)
        with self._readable(), self._opened() as archive:
            for member in archive:
                if not member.isreg() or (name := clean_name(member.name)) not in names:
                    continue
                assert name is not None
                left[name] = left.get(name, 1) - 1
                if left[name] > 0:
                    continue
                self._check_size(name, member.size)
                stream = archive.extractfile(member)
                if stream is not None:
                    yield name, stream.read()

    @contextmanager
    def _opened(self) -> Iterator[tarfile.TarFile]:
        with self.path.open("rb") as file:
            head = file.read(tarfile.BLOCKSIZE)
            file.seek(0)
            unpacked = None if is_tar_header(head) else _unpacked(head, file)
            if unpacked is None:
                with tarfile.open(fileobj=file, mode="r:") as archive:
                    yield archive
                return
            most = most_unpacked(os.fstat(file.fileno()).st_size)
            with unpacked, tarfile.open(fileobj=_Bounded(unpacked, most), mode="r:") as archive:
                yield archive

    def _check_end(self, archive: tarfile.TarFile) -> None:
        """`tarfile` takes a broken header after the first for the end of the archive."""
        stream = archive.fileobj
        assert stream is not None
        stream.seek(archive.offset)
        block = stream.read(tarfile.BLOCKSIZE)
        if any(block) or 0 < len(block) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("it stops before its end mark")
        if not block:
            note(f"{told_path(self.path)}: has no end mark: its end may be missing")
        more = False
        while block := stream.read(1 << 20):  # the checksum of a compressed stream is at its end
            more = more or any(block)
        if more:
            note(
                f"{told_path(self.path)}: what follows its end mark is not read (another tar? put "
                "them together with tar --concatenate)"
            )


def most_unpacked(size_bytes: int) -> int:
    """Bytes that an archive of so many may unpack to: what grows further is made to fill memory."""
    return UNPACKED_BYTES + UNPACKED_FACTOR * size_bytes


@dataclass(frozen=True)
class Zip(Container):
    """A zip archive. A backslash in a name is the separator of a program of Windows."""

    def names(self, progress: Progress | None = None) -> Names:
        """Names of all its files."""
        found = _Sorted(progress)
        with self._readable(), zipfile.ZipFile(self.path) as archive:
            for info in archive.infolist():
                raw = _zip_name(info)
                if not raw.endswith("/") and (name := clean_name(raw)) is not None:
                    found.add(name)
        return found.names

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """The bytes of these members, in the order they lie in."""
        with self._readable(), zipfile.ZipFile(self.path) as archive:
            members = {clean_name(_zip_name(info)): info for info in archive.infolist()}
            left = most_unpacked(self.path.stat().st_size)
            for name, info in members.items():
                if name is None or name not in names:
                    continue
                self._check_size(name, info.file_size)
                if info.flag_bits & 1:
                    raise InputError(f"{self.where(name)}: is encrypted")
                left -= info.file_size
                with self._readable(name), archive.open(info) as stream:
                    if left < 0:
                        raise zipfile.BadZipFile(
                            f"it unpacks to more than {UNPACKED_FACTOR} times the archive's size"
                        )
                    data = stream.read(info.file_size + 1)  # the stated size may be a lie
                    if len(data) > info.file_size:
                        raise zipfile.BadZipFile("it is larger than it says")
                yield name, data


def _zip_name(info: zipfile.ZipInfo) -> str:
    return info.filename.replace("\\", "/")


@dataclass
class _Sorted:
    """Names as they come, those that are hidden apart, each once."""

    progress: Progress | None
    seen: set[str] = field(default_factory=set)

    def add(self, name: str) -> bool:
        """Whether it is new."""
        new = name not in self.seen
        self.seen.add(name)
        if self.progress is not None and len(self.seen) % 1000 == 0:
            self.progress("indexing images", len(self.seen), 0)
        return new

    @property
    def names(self) -> Names:
        hidden = {name for name in self.seen if is_hidden(name)}
        return Names(list(self.seen - hidden), list(hidden))


class _Bounded(io.RawIOBase):
    """A stream that unpacks, and refuses to go beyond `most` bytes."""

    def __init__(self, stream: IO[bytes], most: int) -> None:
        self._stream, self._most = stream, most

    def read(self, size: int | None = -1) -> bytes:
        left = self._most + 1 - self._stream.tell()
        data = self._stream.read(left if size is None or size < 0 else min(size, left))
        self._check(self._stream.tell())
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence != 0:
            raise io.UnsupportedOperation("seek from the start")
        self._check(offset)
        return self._stream.seek(offset)

    def tell(self) -> int:
        return self._stream.tell()

    def _check(self, position: int) -> None:
        if position > self._most:
            raise tarfile.ReadError(
                f"it unpacks to more than {self._most:,} bytes, {UNPACKED_FACTOR} times its size"
            )


def _unpacked(head: bytes, file: IO[bytes]) -> IO[bytes] | None:
    """What a compressed file unpacks to; None for one that is not."""
    for magic, opened in _MAGIC.items():
        if head.startswith(magic):
            stream: IO[bytes] = opened(file, "rb")
            return stream
    return None


def is_tar_header(block: bytes) -> bool:
    """Whether these are the first bytes of a plain tar: its checksum says so."""
    try:
        tarfile.TarInfo.frombuf(block[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    return True


def open_container(path: Path) -> Container:
    """The container at `path`, told by its content, not by its name.

    Raises `InputError` if there is nothing, or nothing that can be read, or something else.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return Directory(path)
        if not stat.S_ISREG(mode):
            raise InputError(f"{path}: is neither a folder nor a file")
        with path.open("rb") as file:
            head = file.read(tarfile.BLOCKSIZE)
    except PermissionError as error:
        raise InputError(f"{told_path(path)}: no permission to read it") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{told_path(path)}: cannot be read: {why(error)}") from error
    if not head:
        raise InputError(f"{path}: is an empty file; a {_NEEDED} is needed")
    if is_tar_header(head) or not any(head) or head.startswith(tuple(_MAGIC)):
        return Tar(path)
    # Other bytes may stand before a zip, which is read from its end.
    if head.startswith((b"PK\3\4", b"PK\5\6", b"PK\7\x08")) or zipfile.is_zipfile(path):
        return Zip(path)
    kind = next((kind for magic, kind in _OTHER_KINDS.items() if head.startswith(magic)), None)
    told = "is not a" if kind is None else f"is a {kind} archive, not a"
    raise InputError(f"{path}: {told} {_NEEDED}")


_NEEDED = "folder, tar, tar.gz or zip"


def _parents(folder: str) -> list[str]:
    parts = folder.split("/")
    return ["/".join(parts[: end + 1]) for end in range(len(parts))]
