"""Weights as the kernels read them: packed once, and again where they have changed."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from costsim.c.native.library import Library

Floats = NDArray[np.float32]

ALIGNMENT_BYTES = 64


def aligned_floats(count: int) -> Floats:
    """Zeros at an address that is a multiple of `ALIGNMENT_BYTES`."""
    room = np.zeros(count * 4 + ALIGNMENT_BYTES, np.uint8)
    start = -room.ctypes.data % ALIGNMENT_BYTES
    return room[start : start + count * 4].view(np.float32)


@dataclass
class PackedWeights:
    """Packed forms of the model's `tensors`, by name; `floats` is what they take together.

    What is asked for twice is there once. `refresh` packs again what belongs to tensors that have
    changed.
    """

    library: Library
    tensors: Mapping[str, Floats]
    _packed: dict[tuple[str, str], Floats] = field(default_factory=dict)
    _fill: dict[tuple[str, str], Callable[[], None]] = field(default_factory=dict)

    @property
    def floats(self) -> int:
        """Floats of all packed forms."""
        return sum(packed.size for packed in self._packed.values())

    def refresh(self, names: Iterable[str]) -> None:
        """Pack again what is packed of the tensors `names`."""
        changed = set(names)
        for (name, _), fill in self._fill.items():
            if name in changed:
                fill()

    def forms(self, name: str) -> set[str]:
        """The forms in which the tensor `name` is packed."""
        return {form for known, form in self._packed if known == name}

    def transposed(self, name: str) -> int:
        """Address of a weight `[columns, depth, 1...]`, packed as a matrix `[depth, columns]`."""
        weight = self.tensors[name]
        return self._matrix(name, "transposed", lambda: weight.reshape(len(weight), -1).T)

    def plain(self, name: str) -> int:
        """Address of a weight `[depth, columns, 1...]`, packed as the matrix that it is."""
        weight = self.tensors[name]
        return self._matrix(name, "plain", lambda: weight.reshape(len(weight), -1))

    def unfolded(self, name: str) -> int:
        """Of a convolution's weight, packed as `[kernel height * width * C_in, C_out]`."""
        weight = self.tensors[name]
        return self._matrix(
            name,
            "unfolded",
            lambda: np.ascontiguousarray(weight.transpose(2, 3, 1, 0).reshape(-1, len(weight))),
        )

    def taps(self, name: str, *, turned: bool = False) -> int:
        """Of a depthwise weight `[C, 1, ...]`, as `[taps, C]`, C filled up to whole vectors.

        `turned`: the last tap first.
        """
        weight = self.tensors[name]
        count, taps = len(weight), weight.size // len(weight)
        packed = aligned_floats(taps * self._whole(count))
        rows = packed.reshape(taps, -1)

        def fill() -> None:
            own = weight.reshape(count, taps).T  # a copy, where the weight has other strides
            rows[:, :count] = own[::-1] if turned else own

        return self._keep(name, "turned taps" if turned else "taps", packed, fill)

    def vector(self, name: str) -> int:
        """Of a bias, filled up to whole vectors."""
        bias = self.tensors[name].reshape(-1)
        packed = aligned_floats(self._whole(len(bias)))

        def fill() -> None:
            packed[: len(bias)] = bias

        return self._keep(name, "vector", packed, fill)

    def _whole(self, count: int) -> int:
        return -(-count // self.library.target.lanes) * self.library.target.lanes

    def _matrix(self, name: str, form: str, matrix: Callable[[], Floats]) -> int:
        depth, columns = matrix().shape
        packed = aligned_floats(self.library.packed_floats(columns, depth))
        return self._keep(name, form, packed, lambda: self.library.pack(matrix(), packed))

    def _keep(self, name: str, form: str, packed: Floats, fill: Callable[[], None]) -> int:
        if (name, form) not in self._packed:
            self._packed[name, form], self._fill[name, form] = packed, fill
            fill()
        return int(self._packed[name, form].ctypes.data)
