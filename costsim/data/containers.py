"""Where image files lie: a folder, a tar (plain or compressed), a zip. Nothing is ever unpacked.

A container gives the names of its files, then the bytes of some of them in one forward pass.
Names are only ever compared, never opened as paths, so a hostile one can do no harm.
"""

import lzma
import stat
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from costsim.base.errors import InputError
from costsim.base.progress import Progress

MAXIMUM_FILE_BYTES = 256 * 1024 * 1024
"""A longer file is not taken for an image."""

MAXIMUM_DEPTH = 8
"""Folders below a folder are looked into down to here, so that a link to a parent ends."""


def clean_name(raw: str) -> str | None:
    """A file's name as `a/b/c`, or None for one that is hidden, out of place or not a name."""
    parts = [part for part in PurePosixPath(raw).parts if part not in ("/", "//")]
    if not parts or any(part.startswith(".") or part == "__MACOSX" for part in parts):
        return None
    name = "/".join(parts).encode("utf-8", "backslashreplace").decode()
    return name.replace("\n", "\\n").replace("\r", "\\r")  # an error is one line


@dataclass(frozen=True)
class Container(ABC):
    """Files under one path, by name."""

    path: Path

    @abstractmethod
    def names(self, progress: Progress | None = None) -> list[str]:
        """The clean names of all its files, in no particular order."""

    @abstractmethod
    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """The bytes of these files, in the order the container has them."""

    def where(self, name: str) -> str:
        """A file for a person: the container and the name in it."""
        return f"{self.path}: {name}"

    @contextmanager
    def _readable(self, member: str | None = None) -> Iterator[None]:
        """One clear line for everything a damaged or forbidden file can raise."""
        where = self.path if member is None else self.where(member)
        try:
            yield
        except PermissionError as error:
            name = error.filename or self.path
            raise InputError(f"{name}: no permission to read it") from error
        except (
            tarfile.TarError,
            zipfile.BadZipFile,
            zlib.error,
            lzma.LZMAError,
            EOFError,
            NotImplementedError,
            RuntimeError,
            OSError,
        ) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"{where}: damaged or truncated: {reason}") from error

    def _check_size(self, name: str, size_bytes: int) -> None:
        if size_bytes > MAXIMUM_FILE_BYTES:
            raise InputError(
                f"{self.where(name)}: {size_bytes:,} bytes; "
                f"an image has at most {MAXIMUM_FILE_BYTES:,}"
            )


@dataclass(frozen=True)
class Directory(Container):
    """A folder. Links are followed."""

    def names(self, progress: Progress | None = None) -> list[str]:
        found = []
        with self._readable():
            for name, _ in self._walk(self.path, "", 0):
                found.append(name)
                _tick(progress, len(found))
        return found

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        folders = {name.rpartition("/")[0] for name in names}
        wanted = {part for folder in folders for part in _parents(folder)}
        with self._readable():
            files = [
                (name, file) for name, file in self._walk(self.path, "", 0, wanted) if name in names
            ]
        for name, file in files:
            with self._readable():
                self._check_size(name, file.stat().st_size)
                data = file.read_bytes()
            yield name, data

    def _walk(
        self, folder: Path, prefix: str, depth: int, only: Collection[str] | None = None
    ) -> Iterator[tuple[str, Path]]:
        for entry in sorted(folder.iterdir()):
            name = clean_name(f"{prefix}{entry.name}")
            if name is None:
                continue
            if entry.is_dir():
                if depth < MAXIMUM_DEPTH and (only is None or name in only):
                    yield from self._walk(entry, f"{name}/", depth + 1, only)
            elif entry.is_file():
                yield name, entry


@dataclass(frozen=True)
class Tar(Container):
    """A tar archive, plain or compressed (gzip, bzip2, xz), read from front to back.

    Links inside the archive are not followed. Of two members of one name the later counts.
    """

    def names(self, progress: Progress | None = None) -> list[str]:
        found = set()
        with self._readable(), tarfile.open(self.path, "r:*") as archive:
            for member in archive:
                if member.isreg() and (name := clean_name(member.name)) is not None:
                    self._check_size(name, member.size)
                    found.add(name)
                    _tick(progress, len(found))
            self._check_end(archive)
        return list(found)

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        last = {}
        with self._readable(), tarfile.open(self.path, "r:*") as archive:
            for member in archive:
                if not member.isreg() or (name := clean_name(member.name)) not in names:
                    continue
                stream = archive.extractfile(member)
                if name is not None and stream is not None:
                    last[name] = stream.read()
        yield from last.items()

    def _check_end(self, archive: tarfile.TarFile) -> None:
        """`tarfile` takes a broken header after the first for the end of the archive."""
        stream = archive.fileobj
        assert stream is not None
        stream.seek(archive.offset)
        block = stream.read(tarfile.BLOCKSIZE)
        if len(block) < tarfile.BLOCKSIZE or any(block):
            raise tarfile.ReadError("it stops before its end mark")
        while stream.read(1 << 20):  # the checksum of a compressed stream is at its very end
            pass


@dataclass(frozen=True)
class Zip(Container):
    """A zip archive."""

    def names(self, progress: Progress | None = None) -> list[str]:
        found = set()
        with self._readable(), zipfile.ZipFile(self.path) as archive:
            for info in archive.infolist():
                if not info.is_dir() and (name := clean_name(info.filename)) is not None:
                    found.add(name)
                    _tick(progress, len(found))
        return list(found)

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        with self._readable(), zipfile.ZipFile(self.path) as archive:
            members = {clean_name(info.filename): info for info in archive.infolist()}
            for name, info in members.items():
                if name is None or name not in names:
                    continue
                self._check_size(name, info.file_size)
                if info.flag_bits & 1:
                    raise InputError(f"{self.where(name)}: is encrypted")
                with self._readable(name), archive.open(info) as stream:
                    data = stream.read(MAXIMUM_FILE_BYTES + 1)  # the stated size may be a lie
                self._check_size(name, len(data))
                yield name, data


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
        raise InputError(f"{path}: no permission to read it") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if not head:
        raise InputError(f"{path}: is an empty file; a folder, tar, tar.gz or zip is needed")
    if head.startswith(b"PK"):
        return Zip(path)
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")) or tarfile.is_tarfile(path):
        return Tar(path)
    raise InputError(f"{path}: is not a folder, tar, tar.gz or zip")


def _parents(folder: str) -> list[str]:
    parts = folder.split("/")
    return ["/".join(parts[: end + 1]) for end in range(len(parts))]


def _tick(progress: Progress | None, done: int) -> None:
    if progress is not None and done % 1000 == 0:
        progress("indexing images", done, 0)
