"""The classifier by class means in numpy, on integers: what the C is held to, bit by bit."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from costsim.c.emission.float32 import Floats, exponential, fused_sum, logarithm
from costsim.c.emission.options import ClassMeans
from costsim.c.emission.quantization import Affine

_ZERO = np.float32(0)


@dataclass(eq=False)
class ReferenceClassifier:
    """Class means of features that integers `of` stand for, `features` of each image."""

    settings: ClassMeans
    of: Affine
    features: int
    fused: bool
    means: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.begin(0)

    def begin(self, classes: int) -> None:
        """Means of so many classes, of no image yet."""
        self.means = np.zeros((classes, self.features), np.float32)

    def add(self, rows: NDArray[Any], labels: NDArray[np.integer[Any]]) -> None:
        """Images whose features are `rows` `[N, D]`, in integers."""
        for row, label in zip(self._whole(rows), labels, strict=True):
            self.means[label] += row

    def end(self) -> None:
        """Unit vectors of the sums; one that is zero stays so."""
        self.means = self.means * self._inverse_lengths(self.means)[:, None]

    def cosines(self, rows: NDArray[Any]) -> Floats:
        """`[N, classes]`."""
        whole = self._whole(rows)
        sums = np.zeros((len(whole), len(self.means)), np.float32)
        for k in range(self.features):
            sums = self._mac(sums, whole[:, k, None], self.means[None, :, k])
        result: Floats = sums * self._inverse_lengths(whole)[:, None]
        return result

    def loss(
        self, rows: NDArray[Any], labels: NDArray[np.integer[Any]], scale: np.float32
    ) -> tuple[np.float32, Floats]:
        """The mean loss, and its gradient `[N, D]` in real values, times `scale`."""
        cosines, temperature = self.cosines(rows), np.float32(self.settings.temperature)
        whole = self._whole(rows)
        scaled = (cosines - cosines.max(1, keepdims=True)) * temperature
        exponentials = exponential(scaled)
        sums = np.add.accumulate(exponentials, axis=1)[:, -1]
        index = np.arange(len(rows)), labels
        terms = logarithm(sums) - scaled[index]
        slopes = exponentials / sums[:, None]
        slopes[index] -= np.float32(1)
        slopes = slopes * (temperature * scale)
        along, pull = np.zeros(len(rows), np.float32), np.zeros_like(whole)
        for w in range(len(self.means)):
            along = self._mac(along, slopes[:, w], cosines[:, w])
            pull = self._mac(pull, slopes[:, w, None], self.means[None, w])
        inverse = self._inverse_lengths(whole)
        parts = whole * inverse[:, None] * along[:, None]
        gradient: Floats = (pull - parts) * (inverse / np.float32(self.of.scale))[:, None]
        return np.float32(np.add.accumulate(terms)[-1] / np.float32(len(rows))), gradient

    def classify(self, rows: NDArray[Any]) -> tuple[NDArray[np.intp], Floats]:
        """The class of each image, and how likely it is."""
        cosines = self.cosines(rows)
        best = cosines.argmax(1)
        most = np.take_along_axis(cosines, best[:, None], 1)
        scaled = (cosines - most) * np.float32(1) * np.float32(self.settings.temperature)
        sums = np.add.accumulate(exponential(scaled), axis=1)[:, -1]
        return best, np.float32(1) / sums

    def _whole(self, rows: NDArray[Any]) -> Floats:
        found: Floats = (rows.astype(np.int32) - self.of.zero).astype(np.float32)
        return found.reshape(len(rows), -1)

    def _inverse_lengths(self, rows: Floats) -> Floats:
        sums = np.zeros(len(rows), np.float32)
        for k in range(rows.shape[1]):
            sums = self._mac(sums, rows[:, k], rows[:, k])
        with np.errstate(divide="ignore"):
            found: Floats = np.where(sums > 0, np.float32(1) / np.sqrt(sums), _ZERO)
        return found.astype(np.float32)

    def _mac(self, total: Floats, a: Floats, b: Floats) -> Floats:
        result: Floats = fused_sum(total, a, b) if self.fused else total + a * b
        return result
