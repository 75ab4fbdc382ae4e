"""The instruction sets that the kernels are compiled for: the widest one that this machine has."""

import platform
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from costsim.base.errors import InputError


@dataclass(frozen=True)
class InstructionSet:
    """How wide vectors are, what the processor must have, and what the compiler is told."""

    name: str
    machine: str
    lanes: int
    features: frozenset[str]
    flags: tuple[str, ...] = ()

    @property
    def whole_columns(self) -> int:
        """A matrix with a multiple of so many columns is whole panels (`kernels/panels.h`)."""
        return max(8, self.lanes)


INSTRUCTION_SETS = (
    InstructionSet(
        "avx512",
        "x86_64",
        16,
        frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "fma"}),
        ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma"),
    ),
    InstructionSet("avx2", "x86_64", 8, frozenset({"avx2", "fma"}), ("-mavx2", "-mfma")),
    InstructionSet("sse2", "x86_64", 4, frozenset({"sse2"}), ("-msse2",)),
    InstructionSet("neon", "aarch64", 4, frozenset()),
)
"""In the order in which they are tried. Every x86-64 has SSE2 and every AArch64 has Neon."""

_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


def instruction_set(
    machine: str | None = None, features: Collection[str] | None = None
) -> InstructionSet:
    """The first of `INSTRUCTION_SETS` that a machine has: this one, unless it is given.

    Where nothing tells the features of the processor, only what every one of its kind has is
    counted on. Raises `InputError` for a machine that there is none for.
    """
    found = (machine or platform.machine()).lower()
    found = _MACHINES.get(found, found)
    has = frozenset(_features() if features is None else features) | {"sse2"}
    for one in INSTRUCTION_SETS:
        if one.machine == found and one.features <= has:
            return one
    known = sorted({one.machine for one in INSTRUCTION_SETS})
    raise InputError(f"there are no native kernels for a machine {found!r}, but for {known}")


def _features() -> frozenset[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return frozenset()
    lines = (line.partition(":") for line in text.splitlines())
    return frozenset(
        word for name, _, value in lines if name.strip() == "flags" for word in value.split()
    )
