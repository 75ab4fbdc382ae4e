"""Whether weights have changed that nobody says have changed.

Autograd counts what is written to a tensor, but not what is written through its `.data`. Of every
weight 16 elements, spread over the whole of it, are compared with what they were; so an optimizer,
an average or a file that was written past autograd is seen.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from costsim.c.native.library import Library

SAMPLES = 16
_SAMPLE = np.dtype([("from", np.uintp), ("step", np.int64), ("noted", np.float32, (SAMPLES,))])


class Samples:
    """Of `tensors`, by name; those whose elements do not lie densely are left out."""

    def __init__(self, library: Library, tensors: Mapping[str, NDArray[np.float32]]) -> None:
        self.library = library
        self._flat = {name: flat for name, t in tensors.items() if (flat := _flat(t)) is not None}
        self._place = {name: place for place, name in enumerate(self._flat)}
        self._samples = np.zeros(len(self._flat), _SAMPLE)
        for place, flat in enumerate(self._flat.values()):
            self._samples[place]["from"] = flat.ctypes.data
            self._samples[place]["step"] = (flat.size - 1) // (SAMPLES - 1)
        self.note(self._flat)

    def note(self, names: Iterable[str]) -> None:
        """What is there now is how it should be."""
        for name in names:
            if name in self._place:
                sample, flat = self._samples[self._place[name]], self._flat[name]
                sample["noted"] = flat[np.arange(SAMPLES) * sample["step"]]

    def changed(self) -> list[str]:
        """The tensors that are not as they were noted."""
        names, found, place = list(self._flat), [], 0
        while (place := self.library.changed(self._samples, place)) < len(names):
            found.append(names[place])
            place += 1
        return found


def _flat(tensor: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """The elements of a dense tensor in the order of memory, without copying them."""
    order = sorted(range(tensor.ndim), key=lambda d: tensor.strides[d], reverse=True)
    turned = tensor.transpose(order)
    return turned.reshape(-1) if tensor.size and turned.flags.c_contiguous else None
