"""Messages between this process and the emulator's: a JSON document and raw bytes beside it.

4 bytes  length of the document, little endian
document its "parts" are the lengths of the byte strings that follow
"""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Message:
    """A document and byte strings."""

    content: Mapping[str, Any]
    parts: Sequence[bytes] = field(default_factory=tuple)

    def to_bytes(self) -> bytes:
        """As it goes over a pipe."""
        document = {**self.content, "parts": [len(part) for part in self.parts]}
        text = json.dumps(document).encode()
        return b"".join((_LENGTH.pack(len(text)), text, *self.parts))


def read_message(stream: IO[bytes]) -> Message | None:
    """The next message; None where the stream has ended, in the middle of one or before."""
    head = _exactly(stream, _LENGTH.size)
    if head is None:
        return None
    text = _exactly(stream, _LENGTH.unpack(head)[0])
    if text is None:
        return None
    document = json.loads(text)
    parts = []
    for length in document.pop("parts"):
        part = _exactly(stream, length)
        if part is None:
            return None
        parts.append(part)
    return Message(document, tuple(parts))


def _exactly(stream: IO[bytes], count: int) -> bytes | None:
    """`count` bytes from a buffered stream, which reads until it has them."""
    found = stream.read(count)
    return found if len(found) == count else None
