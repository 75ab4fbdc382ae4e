"""The handwritten digits inside scikit-learn: real images that need no download."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True)
class Digits:
    """1,797 digits of 43 writers, 8×8 pixels with 17 grey levels, 174 to 183 a class.

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine
    Learning Repository, 1998 (its test set), CC BY 4.0.
    """

    @property
    def description(self) -> str:
        """Where the images come from, for a person."""
        return "handwritten digits (scikit-learn)"

    @cached_property
    def _table(self) -> NDArray[np.uint8]:
        return _read_table()

    @cached_property
    def classes(self) -> Mapping[str, tuple[str, ...]]:
        """`0` to `9`, each with its images by position, as `<digit>/<position>`."""
        names: dict[str, list[str]] = {str(digit): [] for digit in range(10)}
        for position, digit in enumerate(self._table[:, 64]):
            names[str(digit)].append(f"{digit}/{position:04d}")
        return {digit: tuple(images) for digit, images in names.items()}

    def read(self, names: Sequence[str]) -> Iterator[tuple[str, Image.Image]]:
        """Decode these images, in the order asked for."""
        for name in names:
            levels = self._table[int(name.rpartition("/")[2]), :64].reshape(8, 8)
            yield name, Image.fromarray(np.round(levels * (255 / 16)).astype(np.uint8))


def _read_table() -> NDArray[np.uint8]:
    """A row a digit: 64 grey levels from 0 to 16, then the class."""
    package = find_spec("sklearn")
    for folder in (package and package.submodule_search_locations) or ():
        file = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():  # read straight: importing sklearn.datasets takes most of a second
            return np.loadtxt(file, delimiter=",", dtype=np.uint8)
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.column_stack([bunch.data, bunch.target]).astype(np.uint8)


def digits() -> Digits:
    """The source of the default task."""
    return Digits()
