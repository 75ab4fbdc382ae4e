"""Images as a camera gives them: what becomes of a byte, and where it goes."""

from dataclasses import dataclass

import numpy as np

from costsim.c.emission.memory import Memory
from costsim.c.emission.quantization import Quantization
from costsim.c.emission.tables import Tables
from costsim.data.pixels import to_float

CHANNEL_ORDERS = {1: "grey", 3: "red, green, blue"}
"""What the bytes of a pixel are, by their number."""

NORMALISED = "byte / 127.5 - 1"
"""What a byte of an image stands for: `costsim.data.pixels.to_float`."""


@dataclass(frozen=True, slots=True)
class CameraImage:
    """How bytes become inputs: the C type there, the place of the first, the value of a byte."""

    c_type: str
    place: str
    value: str


def takes_images(memory: Memory) -> bool:
    """Whether the model's input is images of a camera, and read at all."""
    shape = memory.graph[memory.graph.input].shape
    return len(shape) == 4 and shape[1] in CHANNEL_ORDERS and memory.graph.input in memory.index


def camera_image(
    memory: Memory, quantization: Quantization | None, tables: Tables
) -> CameraImage | None:
    """How an image gets into the arena; None for a model that takes something else."""
    if not takes_images(memory):
        return None
    given = memory.index[memory.graph.input]
    pixel = "pixels[x * COSTSIM_CHANNELS + channel]"
    if quantization is None:
        return CameraImage("float", memory.buffer(given), f"(float){pixel} / 127.5f - 1.0f")
    levels = to_float(np.arange(256).astype(np.uint8))
    stored = quantization.values[memory.graph.input].quantise(levels)
    place = memory.byte_at(memory.arena.offsets_bytes[given])
    return CameraImage("int8_t", place, f"{tables.levels(stored)}[{pixel}]")
