"""Frames on a line: found among garbage, checked, and numbered.

    A5 5A  type  sequence  length (2)  check (2)  payload  CRC-32 (4)      little endian

`check` is the low half of the CRC-32 of type to length, so that nobody waits for a damaged length;
the last four bytes are zlib's CRC-32 of type to length and of the payload. `firmware/serve.c` has
the same on the other end.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

MAGIC = b"\xa5\x5a"
MAX_PAYLOAD_BYTES = 512
_HEAD = struct.Struct("<BBH")


class Type(IntEnum):
    """What a frame asks or says; an answer is the question's with `REPLY` added."""

    HELLO = 1
    INIT = 2
    WRITE = 3
    READ = 4
    BEGIN = 5
    PASS = 6
    END = 7
    PREDICT = 8
    STATUS = 9
    REPLY = 0x80
    READY = 0xC0
    FAULT = 0xFE
    REFUSED = 0xFF


class Region(IntEnum):
    """What can be read and written."""

    INPUT = 0
    LABELS = 1
    ARENA = 2
    LOGITS = 3


REFUSALS = {
    1: "the checksum was wrong",
    2: "the request is unknown",
    3: "the place is out of range",
    4: "the length is wrong",
}


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame; `type` is a `Type` or an answer to one."""

    type: int
    sequence: int
    payload: bytes = b""

    def to_bytes(self) -> bytes:
        """As it goes over the line."""
        head = _HEAD.pack(self.type, self.sequence, len(self.payload))
        check = zlib.crc32(head) & 0xFFFF
        whole = zlib.crc32(head + self.payload)
        return b"".join(
            (MAGIC, head, check.to_bytes(2, "little"), self.payload, whole.to_bytes(4, "little"))
        )


class Reader:
    """Collects bytes and gives the frames in them; `skipped_bytes` were in none."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self.skipped_bytes = 0
        self.damaged = 0

    def feed(self, content: bytes) -> Iterator[Frame]:
        """The frames that are complete with `content`."""
        self._bytes += content
        while (found := self._next()) is not None:
            yield found

    def restart(self) -> None:
        """Look for a frame inside what was taken for a longer one whose end never came."""
        if len(self._bytes) > 1 and self._bytes.startswith(MAGIC):
            self._drop(1)

    def _drop(self, count: int) -> None:
        del self._bytes[:count]
        self.skipped_bytes += count

    def _next(self) -> Frame | None:
        data = self._bytes
        while True:
            start = data.find(MAGIC)
            if start < 0:
                self._drop(max(0, len(data) - data.endswith(MAGIC[:1])))
                return None
            self._drop(start)
            if len(data) < 8:
                return None
            kind, sequence, length = _HEAD.unpack_from(data, 2)
            right = zlib.crc32(data[2:6]) & 0xFFFF == int.from_bytes(data[6:8], "little")
            if not right or length > MAX_PAYLOAD_BYTES:
                self._drop(1)
                continue
            end = 12 + length
            if len(data) < end:
                return None
            payload = bytes(data[8 : 8 + length])
            crc = int.from_bytes(data[8 + length : end], "little")
            if zlib.crc32(bytes(data[2:6]) + payload) != crc:
                self.damaged += 1
                self._drop(1)
                continue
            del data[:end]
            return Frame(kind, sequence, payload)
