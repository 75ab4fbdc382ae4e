"""Compiling a firmware: sources and a memory map to an ELF, once for each content."""

import atexit
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

from costsim.base.errors import CostsimError, InputError, note
from costsim.base.files import scratch_folder, user_path
from costsim.c.emulation.linker import linker_script
from costsim.c.emulation.memory_map import MemoryMap
from costsim.c.emulation.toolchain import Compiler, find_compiler, host_compiler

Port = Literal["bare", "uart"]
PORTS: Mapping[Port, tuple[str, ...]] = {
    "bare": ("startup.c", "bare.c"),
    "uart": ("startup.c", "serve.c", "uart_cmsdk.c", "uart.h"),
}
"""The files beside the model's: `bare` waits to be called, `uart` speaks on a line."""

DEFAULT_STACK_BYTES = 2048


class DoesNotFit(CostsimError):
    """The linker's refusal: a section is larger than its memory."""


@dataclass(frozen=True)
class Firmware:
    """A built firmware: the ELF, what built it, and the map and stack it was linked for."""

    elf: Path
    compiler: Compiler
    memory: MemoryMap
    stack_bytes: int
    port: Port


def cache_folder() -> Path:
    """Where builds are kept, by a digest of all that goes into them."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = user_path(base) / "costsim" / "firmware"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder):
            return folder
    except OSError:
        note(f"nothing can be kept in {folder}: firmware is built again by each command")
        return _own_folder()


@cache
def _own_folder() -> Path:
    """A folder of this process alone, for as long as it lives: what lies there is run."""
    folder = tempfile.mkdtemp(prefix="costsim-firmware-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def build_firmware(
    sources: Mapping[str, str | bytes],
    memory: MemoryMap,
    *,
    stack_bytes: int = DEFAULT_STACK_BYTES,
    port: Port = "bare",
    compiler: Compiler | None = None,
) -> Firmware:
    """Compile and link `sources` (file name to content, as `costsim.c.emission` gives them).

    Raises `DoesNotFit` with the linker's words where a section is larger than its memory, and
    `InputError` for a missing compiler or C it refuses.
    """
    compiler = compiler or find_compiler()
    if stack_bytes < 8 or stack_bytes % 8:
        raise InputError(f"a stack of {stack_bytes} bytes: a multiple of 8 is needed")
    contents = firmware_sources(sources, port)
    headers = {name: content for name, content in contents.items() if name.endswith(".h")}
    objects = {}
    for name in sorted(contents.keys() - headers.keys()):
        arguments = (*compiler.flags, "-c", name, "-o", "out.o")
        # The kernels and our own files are the same for every model: their headers alone count.
        seen = {name: contents[name], **_included(contents[name], headers)}
        objects[f"{Path(name).stem}.o"] = _built("o", compiler, arguments, seen, "out.o")
    script = linker_script(memory, stack_bytes).encode()
    linked = {"costsim.ld": script, **{n: path.read_bytes() for n, path in objects.items()}}
    arguments = (
        *compiler.flags,
        *objects,
        "-Wl,-T,costsim.ld",
        "-Wl,--gc-sections",
        "-o",
        "firmware.elf",
    )
    path = _built("elf", compiler, arguments, linked, "firmware.elf")
    return Firmware(path, compiler, memory, stack_bytes, port)


def firmware_sources(sources: Mapping[str, str | bytes], port: Port) -> dict[str, bytes]:
    """All C of a firmware: the model's own files, and those of a port beside them."""
    contents = {n: _bytes(content) for n, content in sources.items() if n.endswith((".c", ".h"))}
    contents["costsim_digest.h"] = _digest_header(source_digest(sources))
    return contents | {name: own_source(name) for name in PORTS[port]}


def _included(content: bytes, headers: Mapping[str, bytes]) -> dict[str, bytes]:
    """The headers a source includes, and those that they include."""
    found: dict[str, bytes] = {}
    waiting = [content]
    while waiting:
        for name in re.findall(rb'#include "([^"]+)"', waiting.pop()):
            if (text := name.decode()) in headers and text not in found:
                found[text] = headers[text]
                waiting.append(headers[text])
    return found


def build_watch() -> Path:
    """The emulator's hooks as a library of this machine."""
    arguments = ("-O2", "-shared", "-fPIC", "-nostdlib", "-o", "watch.so", "watch.c")
    contents = {"watch.c": own_source("watch.c")}
    return _built("so", host_compiler(), arguments, contents, "watch.so")


def build_library(
    sources: Mapping[str, str | bytes], compiler: Compiler, flags: tuple[str, ...]
) -> Path:
    """Emitted C as a library of this machine."""
    contents = {name: _bytes(content) for name, content in sources.items()}
    names = sorted(name for name in contents if name.endswith(".c"))
    arguments = (*flags, "-shared", "-fPIC", "-o", "model.so", *names)
    return _built("so", compiler, arguments, contents, "model.so")


def source_digest(sources: Mapping[str, str | bytes]) -> bytes:
    """16 bytes that a firmware gives back, so that one of other sources is noticed."""
    digest = hashlib.sha256()
    for name in sorted(sources):
        if name.endswith((".c", ".h")):
            digest.update(name.encode() + b"\0" + hashlib.sha256(_bytes(sources[name])).digest())
    return digest.digest()[:16]


def _digest_header(digest: bytes) -> bytes:
    listed = ", ".join(f"0x{byte:02x}" for byte in digest)
    return f"#define COSTSIM_DIGEST {{{listed}}}\n".encode()


def own_source(name: str) -> bytes:
    """A file of the firmware's own."""
    return files("costsim.c.emulation").joinpath("firmware", name).read_bytes()


def _bytes(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content


def _built(
    suffix: str,
    compiler: Compiler,
    arguments: tuple[str, ...],
    contents: Mapping[str, bytes],
    output: str,
) -> Path:
    """The output of the compiler over `contents`, from the cache where it was built before."""
    digest = hashlib.sha256(json.dumps([compiler.title, arguments]).encode())
    for name in sorted(contents):
        digest.update(name.encode() + b"\0" + hashlib.sha256(contents[name]).digest())
    target = cache_folder() / f"{digest.hexdigest()[:32]}.{suffix}"
    if target.is_file():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder(target.parent, ".build-") as folder:
            for name, content in contents.items():
                (folder / name).write_bytes(content)
            command = (*compiler.command, *arguments)
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            if done.returncode:
                raise _refusal(compiler.title, done.stderr)
            (folder / output).replace(target)
    except OSError as error:
        raise InputError(
            f"{target.parent}: firmware cannot be built there: {error.strerror}; set "
            "XDG_CACHE_HOME to a folder with room that can be written"
        ) from error
    return target


def _refusal(compiler: str, told: str) -> CostsimError:
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    # The same words from LLVM's linker, in one line, and from GNU's, in two.
    if section := re.search(r"section [`'](\S+)' will not fit in region [`'](\w+)'", told):
        region = section[2]
        one_line = re.search(rf"region '{region}': overflowed by (\d+) bytes", told)
        found = one_line or re.search(rf"region [`']{region}' overflowed by (\d+) bytes", told)
        more = f": overflowed by {found[1]} bytes" if found else ""
        return DoesNotFit(
            f"{compiler}: section '{section[1]}' will not fit in region '{region}'{more}"
        )
    first = next((line for line in lines if "error" in line), lines[0] if lines else "no message")
    return InputError(f"{compiler} cannot compile the firmware: {first}")
