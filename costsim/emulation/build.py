"""Compiling a firmware: sources and a memory map to an ELF, once for each content."""

import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal

from costsim.emulation.linker import linker_script
from costsim.emulation.memory_map import MemoryMap
from costsim.emulation.toolchain import Compiler, find_compiler, host_compiler
from costsim.errors import CostsimError, InputError

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
    return Path(base).expanduser() / "costsim" / "firmware"


def build_firmware(
    sources: Mapping[str, str | bytes],
    memory: MemoryMap,
    *,
    stack_bytes: int = DEFAULT_STACK_BYTES,
    port: Port = "bare",
    compiler: Compiler | None = None,
) -> Firmware:
    """Compile and link `sources` (file name to content, as `costsim.emission` gives them).

    Raises `DoesNotFit` with the linker's words where a section is larger than its memory, and
    `InputError` for a missing compiler or C it refuses.
    """
    compiler = compiler or find_compiler()
    if stack_bytes < 8 or stack_bytes % 8:
        raise InputError(f"a stack of {stack_bytes} bytes: a multiple of 8 is needed")
    contents = {name: _bytes(content) for name, content in sources.items()}
    for name in PORTS[port]:
        contents[name] = own_source(name)
    contents["costsim.ld"] = linker_script(memory, stack_bytes).encode()
    arguments = (
        *compiler.flags,
        *sorted(name for name in contents if name.endswith(".c")),
        "-Wl,-T,costsim.ld",
        "-Wl,--gc-sections",
        "-o",
        "firmware.elf",
    )
    path = _built("elf", (*compiler.command, *arguments), compiler.title, contents, "firmware.elf")
    return Firmware(path, compiler, memory, stack_bytes, port)


@dataclass(frozen=True)
class BoardShape:
    """What a firmware on a line must know: numbers of one whole batch, and whose they are."""

    input_floats: int
    labels: int
    output_floats: int
    digest: bytes = bytes(16)

    def header(self) -> str:
        """`costsim_board.h`, which a firmware on a line needs beside the model."""
        digest = ", ".join(f"0x{byte:02x}" for byte in self.digest[:16].ljust(16, b"\0"))
        return f"""#ifndef COSTSIM_BOARD_H
#define COSTSIM_BOARD_H
#define COSTSIM_BOARD_INPUT_FLOATS {self.input_floats}
#define COSTSIM_BOARD_LABELS {self.labels}
#define COSTSIM_BOARD_OUTPUT_FLOATS {self.output_floats}
#define COSTSIM_BOARD_DIGEST {{{digest}}}
#endif
"""


def build_watch() -> Path:
    """The emulator's hooks as a library of this machine."""
    command = host_compiler()
    arguments = ("-O2", "-shared", "-fPIC", "-nostdlib", "-o", "watch.so", "watch.c")
    contents = {"watch.c": own_source("watch.c")}
    return _built("so", (*command, *arguments), " ".join(command), contents, "watch.so")


def own_source(name: str) -> bytes:
    """A file of the firmware's own."""
    return files("costsim.emulation").joinpath("firmware", name).read_bytes()


def _bytes(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content


def _built(
    suffix: str,
    command: tuple[str, ...],
    compiler: str,
    contents: Mapping[str, bytes],
    output: str,
) -> Path:
    """The output of `command` over `contents`, from the cache where it was built before."""
    digest = hashlib.sha256(json.dumps([compiler, command[1:]]).encode())
    for name in sorted(contents):
        digest.update(name.encode() + b"\0" + hashlib.sha256(contents[name]).digest())
    target = cache_folder() / f"{digest.hexdigest()[:32]}.{suffix}"
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as folder:
        for name, content in contents.items():
            place = Path(folder, name)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise _refusal(compiler, done.stderr)
        Path(folder, output).replace(target)
    return target


def _refusal(compiler: str, told: str) -> CostsimError:
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    for line in lines:
        if "will not fit in region" in line or "overflowed by" in line:
            return DoesNotFit(
                f"{compiler}: {line.removeprefix('ld.lld: ').removeprefix('error: ')}"
            )
    first = next((line for line in lines if "error" in line), lines[0] if lines else "no message")
    return InputError(f"{compiler} cannot compile the firmware: {first}")
