"""Compiling the kernels for this machine: once for each content, compiler and instruction set.

What lies in the cache is loaded into the process, so it is only ever taken from a folder that is
the user's own and that nobody else can write to, and only whole: beside each library lies the
digest of its bytes. One that a full disk or a power cut left short may end the process as it loads.
"""

import atexit
import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from functools import cache
from importlib.resources import files
from pathlib import Path

from costsim.base.errors import InputError, note
from costsim.base.files import file_sha256, scratch_folder, user_path, why
from costsim.c.emulation.toolchain import Compiler, host_compiler
from costsim.c.native.instruction_sets import InstructionSet

FLAGS = (
    "-O3",
    "-shared",
    "-fPIC",
    "-std=gnu11",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-Wall",
    "-Wextra",
)
"""Without `-ffast-math`: a NaN must come out as one."""

LIBRARIES = ("-lm", "-pthread")

COMPILER_SECONDS = 300


@cache
def kernel_sources() -> dict[str, bytes]:
    """The C of the kernels by file name."""
    folder = files("costsim.c.native").joinpath("kernels")
    names = sorted(file.name for file in folder.iterdir() if file.name.endswith((".c", ".h")))
    return {name: folder.joinpath(name).read_bytes() for name in names}


def build_kernels(target: InstructionSet, compiler: Compiler | None = None) -> Path:
    """The shared library of the kernels, from the cache where it was built before.

    Raises `InputError` for a missing compiler, or one that refuses.
    """
    compiler = compiler or host_compiler()
    sources = kernel_sources()
    names = [name for name in sources if name.endswith(".c")]
    arguments = (*FLAGS, *target.flags, f"-DLANES={target.lanes}", *names, *LIBRARIES)
    digest = hashlib.sha256(repr((compiler.command, _version(compiler), arguments)).encode())
    for name, content in sources.items():
        digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
    name = f"kernels-{target.name}-{digest.hexdigest()[:32]}.so"
    folder = cache_folder()
    if (found := _kept(folder / name)) is not None:
        return found
    try:
        with scratch_folder(folder, ".build-") as scratch:
            for source, content in sources.items():
                (scratch / source).write_bytes(content)
            _compile((*compiler.command, *arguments, "-o", name), scratch)
            (scratch / _sum_of(name)).write_text(str(file_sha256(scratch / name)))
            for made in (name, _sum_of(name)):
                (scratch / made).chmod(0o600)
                (scratch / made).replace(folder / made)
    except OSError as error:
        raise InputError(f"{folder}: native kernels cannot be built there: {why(error)}") from error
    return folder / name


def _compile(command: tuple[str, ...], folder: Path) -> None:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=COMPILER_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"{command[0]}: the native kernels were not compiled in {COMPILER_SECONDS} seconds"
        ) from error
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        told = next(
            (line for line in lines if "error" in line), lines[0] if lines else "no message"
        )
        raise InputError(f"{command[0]} cannot compile the native kernels: {told[:200]}")


@cache
def _version(compiler: Compiler) -> str:
    """What the compiler says of itself, so that another one at the same place builds anew."""
    try:
        done = subprocess.run(
            (*compiler.command, "--version"),
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=COMPILER_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"{compiler.command[0]}: does not run") from error
    return done.stdout


def cache_folder() -> Path:
    """Where built kernels are kept: a folder that is the user's own, or one of this process."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = user_path(base) / "costsim" / "native"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not is_private(folder.lstat()):
            why_not = "is a link" if folder.is_symlink() else "others can write to it"
            note(f"{folder}: {why_not}, so native kernels are built by each command")
            return _own_folder()
        with tempfile.TemporaryDirectory(dir=folder):
            return folder
    except OSError:
        note(f"nothing can be kept in {folder}: native kernels are built again by each command")
        return _own_folder()


@cache
def _own_folder() -> Path:
    """A folder of this process alone, for as long as it lives."""
    folder = tempfile.mkdtemp(prefix="costsim-native-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def is_private(found: os.stat_result) -> bool:
    """Whether a file or a folder is the user's own and nobody else can write to it."""
    if not hasattr(os, "getuid"):
        return True
    others = stat.S_IWGRP | stat.S_IWOTH
    plain = stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)
    return plain and found.st_uid == os.getuid() and not found.st_mode & others


def _kept(path: Path) -> Path | None:
    """A library that was built before; None where there is none that may be loaded."""
    try:
        found = path.lstat()
    except OSError:
        return None
    if not (is_private(found) and stat.S_ISREG(found.st_mode)):
        return None
    try:
        wanted = path.with_name(_sum_of(path.name)).read_text(errors="replace")
    except OSError:
        return None
    return path if wanted == file_sha256(path) else None


def _sum_of(name: str) -> str:
    """The file beside a library of this name that has its digest."""
    return f"{name}.sha256"
