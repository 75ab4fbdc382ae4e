"""The handwritten digits inside scikit-learn: real images that need no download."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
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
    def _bunch(self) -> Any:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]

        return load_digits()

    @cached_property
    def classes(self) -> Mapping[str, tuple[str, ...]]:
        """`0` to `9`, each with its images by position, as `<digit>/<position>`."""
        names: dict[str, list[str]] = {str(digit): [] for digit in range(10)}
        for position, digit in enumerate(self._bunch.target):
            names[str(digit)].append(f"{digit}/{position:04d}")
        return {digit: tuple(images) for digit, images in names.items()}

    def read(self, names: Sequence[str]) -> Iterator[tuple[str, Image.Image]]:
        """Decode these images, in the order asked for."""
        for name in names:
            levels = self._bunch.images[int(name.rpartition("/")[2])]
            yield name, Image.fromarray(np.round(levels * (255 / 16)).astype(np.uint8))


def digits() -> Digits:
    """The source of the default task."""
    return Digits()
