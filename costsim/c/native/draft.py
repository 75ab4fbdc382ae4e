"""A record while it is being made: its places are buffers of the program, or addresses."""

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass, field

from costsim.c.native.record import Flag, Kind, Place, Record


@dataclass
class Draft:
    """What a kernel is to do; what has an operator's meaning is said in `kernels/`."""

    kind: Kind
    buffers: dict[Place, int] = field(default_factory=dict)
    addresses: dict[Place, int] = field(default_factory=dict)
    flags: Flag = field(default_factory=lambda: Flag(0))
    rows: int = 0
    columns: int = 0
    depth: int = 0
    count: int = 0
    window: Mapping[str, int | tuple[int, int]] = field(default_factory=dict)
    low: float = 0.0
    high: float = 0.0

    @property
    def reads(self) -> set[int]:
        """The buffers read."""
        written = (Place.Y, Place.MASK_OUT)
        return {buffer for place, buffer in self.buffers.items() if place not in written}

    def record(self, offsets_bytes: Mapping[int, int]) -> Record:
        """As the kernels read it, with buffers at these offsets in the arena."""
        found = Record(
            kind=self.kind,
            flags=self.flags,
            rows=self.rows,
            columns=self.columns,
            depth=self.depth,
            count=self.count,
            low=self.low,
            high=self.high,
        )
        for place, buffer in self.buffers.items():
            found.at[place] = offsets_bytes[buffer]
            found.present |= 1 << place
        for place, address in self.addresses.items():
            found.at[place] = address
            found.present |= 1 << place
            found.absolute |= 1 << place
        for name, value in self.window.items():
            pair = (ctypes.c_int32 * 2)(*value) if isinstance(value, tuple) else value
            setattr(found.window, name, pair)
        return found


def window_of(
    x: tuple[int, ...],
    y: tuple[int, ...],
    *,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> dict[str, int | tuple[int, int]]:
    """The window of a convolution from images of shape `x` to those of shape `y`, [N, C, H, W]."""
    pairs = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    return {
        "batch": x[0],
        "channels": x[1],
        "height": x[2],
        "width": x[3],
        "out_height": y[2],
        "out_width": y[3],
        **{name: (pair[0], pair[1]) for name, pair in pairs.items()},
    }
