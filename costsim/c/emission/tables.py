"""Constant tables that the emitted operations share, each defined once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np
from numpy.typing import NDArray

from costsim.base.errors import InputError
from costsim.c.emission.text import braces, number, rows
from costsim.ir.operators import Shape

DIMENSIONS = 6
CHANNEL_LIMIT = 1 << 16
SPATIAL = 3


@dataclass
class Tables:
    """Collects definitions; every method returns the C name of what it adds."""

    definitions: list[str] = field(default_factory=list)
    bytes: int = 0
    _names: dict[str, str] = field(default_factory=dict)

    def _define(self, kind: str, c_type: str, text: str, size_bytes: int, array: str = "") -> str:
        key = f"{c_type}{array} {text}"
        if key not in self._names:
            name = self._names[key] = f"{kind}_{len(self._names)}"
            self.definitions.append(f"static const {c_type} {name}{array} = {text};\n")
            self.bytes += size_bytes
        return self._names[key]

    def channels(self, numbers: Sequence[int]) -> str:
        """A list of channel numbers."""
        if max(numbers) >= CHANNEL_LIMIT:
            raise InputError(
                f"channel {max(numbers)} of a weight; the emitted code counts to {CHANNEL_LIMIT}"
            )
        body = rows(map(str, numbers))
        return self._define(
            "channels", "costsim_channel", f"{{\n{body}\n}}", 2 * len(numbers), f"[{len(numbers)}]"
        )

    def floats(self, values: NDArray[np.float32]) -> str:
        """Factors, such as one a channel."""
        body = rows(number(value) for value in values.tolist())
        size = len(values)
        return self._define("floats", "float", f"{{\n{body}\n}}", 4 * size, f"[{size}]")

    def levels(self, values: NDArray[np.int8]) -> str:
        """What each byte of an image is stored as."""
        body = rows(map(str, values.tolist()))
        size = len(values)
        return self._define("levels", "int8_t", f"{{\n{body}\n}}", size, f"[{size}]")

    def run(self, numbers: Sequence[int]) -> tuple[int, str]:
        """Channels as the first of a run, or as 0 and a list."""
        first = numbers[0]
        if tuple(numbers) == tuple(range(first, first + len(numbers))):
            return first, "NULL"
        return 0, self.channels(numbers)

    def blocks(self, initialisers: Sequence[str]) -> str:
        """An array of blocks."""
        body = ",\n".join(f"    {one}" for one in initialisers)
        count = len(initialisers)
        return self._define("blocks", "costsim_block", f"{{\n{body}\n}}", 32 * count, f"[{count}]")

    def window(
        self,
        counts: tuple[int, int, int],
        size: Shape,
        out: Shape,
        *,
        kernel: Shape = (),
        stride: Shape = (),
        padding: Shape = (),
        dilation: Shape = (),
    ) -> str:
        """A window over up to three spatial dimensions, filled up in front."""
        if len(size) > SPATIAL:
            raise InputError(f"windows over {len(size)} dimensions; there are kernels for three")
        rank = len(size)
        filled = [
            braces((*((empty,) * (SPATIAL - rank)), *(values or (empty,) * rank)))
            for values, empty in (
                (size, 1),
                (out, 1),
                (kernel, 1),
                (stride, 1),
                (padding, 0),
                (dilation, 1),
            )
        ]
        return "&" + self._define("window", "costsim_window", braces((*counts, *filled)), 84)

    def loops(self, shape: Shape, *steps: Sequence[int]) -> str:
        """Loops over `shape` with the steps of a, b and y; what lies in a row is one loop."""
        merged: list[list[int]] = []  # size, step of a, of b, of y
        for size, *step in zip(shape, *steps, strict=True):
            if size == 1:
                continue
            if merged and all(
                outer == inner * size for outer, inner in zip(merged[-1][1:], step, strict=True)
            ):
                merged[-1] = [merged[-1][0] * size, *step]
            else:
                merged.append([size, *step])
        if len(merged) > DIMENSIONS:
            raise InputError(f"an operation over {len(merged)} separate dimensions; 6 is the limit")
        merged = [[1, 0, 0, 0]] * (DIMENSIONS - len(merged)) + merged
        text = braces([braces(column) for column in zip(*merged, strict=True)])
        return "&" + self._define("loops", "costsim_loops", text, 96)


def steps(shape: Shape, into: Shape | None = None) -> tuple[int, ...]:
    """Steps of a dense tensor along each dimension; broadcast into a shape: 0 where repeated."""
    own = tuple(prod(shape[d + 1 :]) for d in range(len(shape)))
    if into is None:
        return own
    repeated = tuple(0 if size == 1 else step for size, step in zip(shape, own, strict=True))
    return (0,) * (len(into) - len(shape)) + repeated
