"""The native hooks of `firmware/watch.c` on an emulator: what ran, and what was touched."""

import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from costsim.c.emulation.memory_map import Span

BLOCK = np.dtype(
    [
        ("address", np.uint32),
        ("size", np.uint32),
        ("operation", np.int32),
        ("conditional", np.uint32),
        ("count", np.uint64),
    ]
)
CAPACITY = 1 << 16

_INHERIT, _OUTSIDE, _FIRST = 0, 1, 2


class _Violation(ctypes.Structure):
    _fields_ = (
        ("address", ctypes.c_uint64),
        ("size", ctypes.c_uint32),
        ("write", ctypes.c_uint32),
        ("happened", ctypes.c_uint32),
        ("pc", ctypes.c_uint32),
    )


class _Watch(ctypes.Structure):
    _fields_ = (
        ("code_address", ctypes.c_uint64),
        ("code_halfwords", ctypes.c_uint64),
        ("marks", ctypes.c_void_p),
        ("code", ctypes.c_void_p),
        ("blocks", ctypes.c_void_p),
        ("capacity", ctypes.c_uint64),
        ("used", ctypes.c_uint64),
        ("operation", ctypes.c_int64),
        ("ram_address", ctypes.c_uint64),
        ("ram_bytes", ctypes.c_uint64),
        ("row_bytes", ctypes.c_uint64),
        ("written", ctypes.c_void_p),
        ("read", ctypes.c_void_p),
        ("limit_address", ctypes.c_uint64),
        ("violation", _Violation),
        ("stop", ctypes.c_void_p),
        ("read_register", ctypes.c_void_p),
        ("write_register", ctypes.c_void_p),
        ("pc_register", ctypes.c_int64),
        ("state_register", ctypes.c_int64),
        ("entered", ctypes.c_uint64),
        ("conditional", ctypes.c_uint64),
        ("end", ctypes.c_uint64),
    )


class Watch:
    """Counts of blocks and, while `watching`, the bytes of `ram` that each operation touched.

    `content` is what lies in the memory `code`. `operations` gives the code (address, bytes) of
    each operation, `outside` that of functions that belong to none; what they call belongs to
    whoever calls. `ram` ends at the limit: an access beyond it stops the emulator.
    """

    def __init__(
        self,
        library: Path,
        emulator: Any,
        ram: Span,
        code: Span,
        content: bytes,
        operations: Mapping[int, Span],
        outside: tuple[Span, ...],
    ) -> None:
        from unicorn import arm_const, unicorn_const
        from unicorn.unicorn_py3.unicorn import uclib

        self._library, self._emulator, self._uclib = ctypes.CDLL(str(library)), emulator, uclib
        self._const = unicorn_const
        self.ram = ram
        self.rows = max(operations, default=-1) + 2
        self._marks: NDArray[np.uint16] = np.zeros(code.size_bytes // 2 + 1, dtype=np.uint16)
        for span, mark in (
            *((span, _OUTSIDE) for span in outside),
            *((span, _FIRST + index) for index, span in operations.items()),
        ):
            first = (span.address - code.address) // 2
            self._marks[first : first + span.size_bytes // 2] = mark
        self._code = np.zeros(len(self._marks), dtype="<u2")
        self._code.view(np.uint8)[: len(content)] = np.frombuffer(content, dtype=np.uint8)
        self._blocks = np.zeros(CAPACITY, dtype=BLOCK)
        row_bytes = -(-(ram.size_bytes + 7) // 8)
        self._shape = (self.rows, row_bytes)
        self._written: NDArray[np.uint8] | None = None
        self._read: NDArray[np.uint8] | None = None
        self._state = _Watch(
            code_address=code.address,
            code_halfwords=len(self._marks),
            marks=self._marks.ctypes.data,
            code=self._code.ctypes.data,
            blocks=self._blocks.ctypes.data,
            capacity=CAPACITY,
            operation=-1,
            ram_address=ram.address,
            # Beyond the limit too, up to the end of the page that is mapped.
            ram_bytes=-(-ram.size_bytes // 4096) * 4096,
            row_bytes=row_bytes,
            limit_address=ram.end,
            stop=ctypes.cast(uclib.uc_emu_stop, ctypes.c_void_p),
            read_register=ctypes.cast(uclib.uc_reg_read, ctypes.c_void_p),
            write_register=ctypes.cast(uclib.uc_reg_write, ctypes.c_void_p),
            pc_register=arm_const.UC_ARM_REG_PC,
            state_register=arm_const.UC_ARM_REG_XPSR,
        )
        self._hook(unicorn_const.UC_HOOK_BLOCK, "costsim_on_block")
        self._access_hook: int | None = None
        if ram.end % 4096:  # the emulator's own limit is a page: ours is a byte
            self._hook_accesses()

    def _hook(self, kind: int, function: str) -> int:
        handle = ctypes.c_size_t()
        status = self._uclib.uc_hook_add(
            self._emulator._uch,
            ctypes.byref(handle),
            kind,
            ctypes.cast(getattr(self._library, function), ctypes.c_void_p),
            ctypes.cast(ctypes.byref(self._state), ctypes.c_void_p),
            ctypes.c_uint64(1),
            ctypes.c_uint64(0),
        )
        if status:
            raise RuntimeError(f"the emulator refuses the hook {function}: {status}")
        return handle.value

    def _hook_accesses(self) -> None:
        if self._access_hook is None:
            kinds = self._const.UC_HOOK_MEM_WRITE | self._const.UC_HOOK_MEM_READ
            self._access_hook = self._hook(kinds, "costsim_on_access")
            self._emulator.ctl_flush_tb()

    def watch(self, on: bool) -> None:
        """Whether accesses are noted from now on; what was noted before is forgotten."""
        if not on:
            self._state.written = self._state.read = None
            if self._access_hook is not None and not self.ram.end % 4096:
                self._uclib.uc_hook_del(self._emulator._uch, ctypes.c_size_t(self._access_hook))
                self._access_hook = None
                self._emulator.ctl_flush_tb()
            return
        self._written = np.zeros(self._shape, dtype=np.uint8)
        self._read = np.zeros(self._shape, dtype=np.uint8)
        self._state.written = self._written.ctypes.data
        self._state.read = self._read.ctypes.data
        self._hook_accesses()

    def clear(self) -> None:
        """Forget the counts."""
        self._blocks[:] = 0
        self._state.used = self._state.entered = 0
        self._state.operation = -1

    @property
    def operation(self) -> int:
        """The operation that runs, -1 for none."""
        return int(self._state.operation)

    @property
    def full(self) -> bool:
        """Whether there were too many blocks to count."""
        return int(self._state.used) > CAPACITY

    def violation(self) -> dict[str, int] | None:
        """The first access beyond the limit, and forget it."""
        found = self._state.violation
        if not found.happened:
            return None
        told = {name: int(getattr(found, name)) for name in ("address", "size", "write", "pc")}
        self._state.violation = _Violation()
        return told

    def blocks(self) -> NDArray[Any]:
        """Every block that ran, by operation: rows of `BLOCK`."""
        found: NDArray[Any] = self._blocks[self._blocks["address"] != 0]
        return found

    def touched(self) -> NDArray[np.int64]:
        """Rows (operation, 1 written or 0 read, first byte, byte after the last) in the RAM."""
        rows = [
            (operation - 1, written, first, end)
            for written, bits in ((1, self._written), (0, self._read))
            if bits is not None
            for operation in range(self.rows)
            for first, end in _runs(bits[operation])
        ]
        return np.array(rows, dtype=np.int64).reshape(-1, 4)


def _runs(bits: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Runs of ones, as (first, end)."""
    if not bits.any():
        return []
    flags = np.unpackbits(bits, bitorder="little").astype(np.int8)
    change = np.diff(flags, prepend=np.int8(0), append=np.int8(0))
    return list(zip(np.flatnonzero(change == 1), np.flatnonzero(change == -1), strict=True))
