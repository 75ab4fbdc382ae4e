"""C compilers: one for the Cortex-M7, and one for hooks that run in the emulator's process."""

import importlib.util
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from typing import Literal

from costsim.base.errors import InputError
from costsim.c.emission.options import COMPILER_FLAGS

CompilerName = Literal["zig", "gcc"]
COMPILERS: tuple[CompilerName, ...] = ("zig", "gcc")
"""Cross-compilers, in the order in which they are looked for."""

_GCC = "arm-none-eabi-gcc"

_COMMON = (
    *COMPILER_FLAGS,
    "-g0",
    "-fno-common",
    "-ffunction-sections",
    "-fdata-sections",
    "-Wall",
    "-Wextra",
)

_FLAGS = {
    "zig": ("-target", "thumb-freestanding-eabihf", "-mcpu=cortex_m7+fp_armv8d16sp", "-nostdlib"),
    "gcc": ("-mcpu=cortex-m7", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv5-sp-d16", "-nostdlib"),
}


@dataclass(frozen=True)
class Compiler:
    """A compiler: what it is called in results, its version, and how it is run."""

    name: str
    version: str
    command: tuple[str, ...]

    @property
    def title(self) -> str:
        """Name and version, as results give them."""
        if not self.version:  # that of this machine
            return self.name
        return f"{'zig cc' if self.name == 'zig' else _GCC} {self.version}"

    @property
    def flags(self) -> tuple[str, ...]:
        """What every firmware is compiled with."""
        return (*_FLAGS[self.name], *_COMMON)


def find_compiler(name: CompilerName | None = None) -> Compiler:
    """The compiler `name`, or the first there is of zig and GCC.

    Raises `InputError` that says which packages provide one.
    """
    if name is not None and name not in COMPILERS:
        raise InputError(f"compiler {name!r}; allowed are {', '.join(COMPILERS)}")
    for candidate in COMPILERS if name is None else (name,):
        if (command := _command(candidate)) is not None:
            return Compiler(candidate, _version(candidate, command), command)
    raise InputError(
        f"no C compiler for the Cortex-M7{'' if name is None else f' called {name}'} was found: "
        'zig comes with pip install "costsim[emulator]", GCC with Debian\'s gcc-arm-none-eabi'
    )


def host_compiler() -> Compiler:
    """A compiler for this machine: the system's, or zig's. Raises `InputError` for none."""
    for name in ("cc", "gcc", "clang"):
        if path := shutil.which(name):
            return Compiler(name, "", (path,))
    if (zig := _command("zig")) is not None:
        return Compiler("zig", _version("zig", zig), zig)
    raise InputError(
        "no C compiler for this machine was found, to build the emulator's hooks: zig comes with "
        'pip install "costsim[emulator]", GCC with Debian\'s gcc'
    )


def _command(name: CompilerName) -> tuple[str, ...] | None:
    if name == "zig":
        found = importlib.util.find_spec("ziglang")
        return (sys.executable, "-m", "ziglang", "cc") if found else None
    path = shutil.which(_GCC)
    return (path,) if path else None


@cache
def _version(name: CompilerName, command: tuple[str, ...]) -> str:
    arguments = (*command[:-1], "version") if name == "zig" else (*command, "-dumpfullversion")
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"{' '.join(command)}: does not run: {done.stderr.strip()[:200]}")
    return done.stdout.strip()
