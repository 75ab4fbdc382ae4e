"""A memory that emitted C saves to, as a device has it: it may lose power, or fail."""

import ctypes

from costsim.c.emission.store import BLOCK_BYTES

CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int32, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint32
)


class CStore(ctypes.Structure):
    """`costsim_store`."""

    _fields_ = (
        ("read", CALLBACK), ("write", CALLBACK),
        ("context", ctypes.c_void_p), ("slot_bytes", ctypes.c_uint32),
    )  # fmt: skip


class Memory:
    """A memory that keeps its bytes; with `sector` it is flash, of which whole sectors are erased.

    After `writes` of them power is gone: of the next one `torn` bytes arrive, and of more nothing.
    """

    def __init__(self, slot: int, sector: int = 0) -> None:
        self.content = bytearray(b"\xa7" * 2 * slot)
        self.slot, self.sector = slot, sector
        self.left, self.torn, self.written = 1 << 30, 0, 0
        self.reads = 1 << 30
        self.callbacks = CALLBACK(self.read), CALLBACK(self.write)
        self.store = CStore(*self.callbacks, None, slot)

    def read(self, _: object, offset: int, to: int, count: int) -> int:
        """0, or 5 from where it fails on."""
        self.reads -= 1
        if self.reads < 0:
            return 5
        ctypes.memmove(to, bytes(self.content[offset : offset + count]), count)
        return 0

    def write(self, _: object, offset: int, source: int, count: int) -> int:
        """0, or 1 from where power is gone on."""
        assert count == BLOCK_BYTES
        assert offset % BLOCK_BYTES == 0
        self.written += 1
        if self.left < 0:
            return 1
        if self.sector and offset % self.sector == 0:
            self.content[offset : offset + self.sector] = b"\xff" * self.sector
        arrives = count if self.left else self.torn
        given = ctypes.string_at(source, arrives)
        if self.sector:
            assert set(self.content[offset : offset + count]) == {0xFF}
        self.content[offset : offset + arrives] = given
        self.left -= 1
        return int(self.left < 0)
