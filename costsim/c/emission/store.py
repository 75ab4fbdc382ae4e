"""What the emitted code keeps of what was learnt: which bytes, and the slots that hold them.

The slots are those of `kernels/costsim_store.c`, byte by byte, read and written here.
"""

import hashlib
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from costsim.base.errors import InputError
from costsim.c.emission.memory import Memory
from costsim.c.emission.options import EmissionOptions
from costsim.c.emission.quantization import Quantization
from costsim.ir.operators import elements
from costsim.ir.program.adaptation import class_means_bytes

FORMAT = 1
"""Of a slot; another is refused."""

BLOCK_BYTES = 64
MAGIC = 0x54534C43
DIGEST_BYTES = 16

_RECORD = struct.Struct("<6I16s20x")


@dataclass(frozen=True)
class StoreLayout:
    """How many bytes are kept, and the digest of the model and plan that they belong to."""

    kept_bytes: int
    digest: bytes

    @property
    def blocks(self) -> int:
        """Blocks of a slot, its record apart."""
        return -(-self.kept_bytes // BLOCK_BYTES)

    @property
    def slot_bytes(self) -> int:
        """Of a slot, its record included."""
        return (self.blocks + 1) * BLOCK_BYTES


@dataclass(frozen=True)
class Slot:
    """What a whole slot holds: the kept bytes, how many classes have means, which save it was."""

    kept: bytes
    classes: int
    sequence: int


def layout_of(
    memory: Memory,
    stored: Mapping[str, NDArray[Any]],
    quantization: Quantization | None,
    options: EmissionOptions,
) -> StoreLayout:
    """What is kept of an emitted model; `stored` are its weights as they lie in flash.

    The digest is of everything that gives the kept bytes their meaning: all weights as they were,
    which of them are updated, and the scales of integers.
    """
    digest = hashlib.sha256(f"format {FORMAT}".encode())
    for name in sorted(stored):
        array = np.ascontiguousarray(stored[name])
        digest.update(f"{name} {array.dtype.str} {array.size}".encode() + array.tobytes())
    for update in memory.updates:
        places = np.ascontiguousarray(update.places, "<i8")
        digest.update(" ".join(update.atom).encode() + places.tobytes())
    if quantization is not None:
        for name, scales in sorted(quantization.weight_scales.items()):
            digest.update(name.encode() + np.ascontiguousarray(scales, "<f4").tobytes())
        for name, value in sorted(quantization.values.items()):
            digest.update(f"{name} {value.scale!r} {value.zero}".encode())
    kept = sum(update.bytes for update in memory.updates) + means_bytes(memory, options)
    digest.update(f"{kept}".encode())
    return StoreLayout(kept, digest.digest()[:DIGEST_BYTES])


def means_bytes(memory: Memory, options: EmissionOptions) -> int:
    """Of the class means, which are kept behind the weights."""
    if options.class_means is None:
        return 0
    features = elements(memory.graph[memory.graph.output].shape[1:])
    return class_means_bytes(options.class_means.classes, features, memory.program.step.bits)


def kept_parts(memory: Memory, options: EmissionOptions) -> list[tuple[str, int]]:
    """Where the kept bytes lie in the emitted code: pointer and size, one after another."""
    found = [(memory.at(update.offset_bytes), update.bytes) for update in memory.updates]
    if size := means_bytes(memory, options):
        found.append(("costsim_class_means", size))
    return found


def slot_bytes(layout: StoreLayout, slot: Slot) -> bytes:
    """A slot as the device writes it."""
    kept = slot.kept.ljust(layout.blocks * BLOCK_BYTES, b"\0")
    numbers = (MAGIC, FORMAT, slot.sequence, layout.kept_bytes, zlib.crc32(kept), slot.classes)
    record = _RECORD.pack(*numbers, layout.digest)
    return kept + record + struct.pack("<I", zlib.crc32(record))


def newest_slot(content: bytes, layout: StoreLayout, source: str) -> Slot:
    """The newest whole slot in the bytes of a store, wherever in it slots lie.

    Raises `InputError`, naming `source`, where there is none, and says whose slots there are.
    """
    found = [slot for slot in _slots(content, layout) if isinstance(slot, Slot)]
    if not found:
        others = sorted({slot for slot in _slots(content, layout) if isinstance(slot, str)})
        more = f"; it holds what is {', '.join(others)}" if others else ""
        raise InputError(
            f"{source}: holds nothing whole that was saved by the firmware "
            f"{layout.digest.hex()[:12]}...{more}"
        )
    best = found[0]
    for slot in found[1:]:
        if 0 < (slot.sequence - best.sequence) % 2**32 < 2**31:
            best = slot
    return best


def _slots(content: bytes, layout: StoreLayout) -> Iterator[Slot | str]:
    """Whole slots, and in words what else has a record."""
    for end in range(0, len(content) - BLOCK_BYTES + 1, BLOCK_BYTES):
        block = content[end : end + BLOCK_BYTES]
        magic, version, sequence, size, checksum, classes, digest = _RECORD.unpack(block[:-4])
        if magic != MAGIC or zlib.crc32(block[:-4]) != struct.unpack("<I", block[-4:])[0]:
            continue
        kept = content[max(0, end - layout.blocks * BLOCK_BYTES) : end]
        if version != FORMAT:
            yield f"in format {version}"
        elif digest != layout.digest or size != layout.kept_bytes:
            yield f"of the firmware {digest.hex()[:12]}..."
        elif len(kept) == layout.blocks * BLOCK_BYTES and zlib.crc32(kept) == checksum:
            yield Slot(kept[: layout.kept_bytes], classes, sequence)
        else:
            yield "damaged"
