"""A published figure and the predicted one beside it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from costsim.base.progress import Progress
from costsim.device import Interval
from costsim.studies.published.figures import Figure, Quantity

SCHEMA = "costsim.reproduction/1"


@dataclass(frozen=True)
class Row:
    """One cost of one method: published, where this project has a source for it, and predicted.

    `fitted`: rates of the device file were fitted to this very figure, so that it is no test.
    `others` are predictions of the same by other ways of doing it, by name.
    """

    quantity: Quantity
    method: str
    network: str | None
    board: str | None
    predicted: Interval
    published: Figure | None = None
    fitted: bool = False
    others: Mapping[str, Interval] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """Predicted over published, where there is a figure: over the middle of a printed range."""
        if self.published is None:
            return None
        return 2 * self.predicted.value / (self.published.low + self.published.high)

    def to_json(self) -> dict[str, Any]:
        """As one JSON object, amounts in base units."""
        published = None
        if self.published is not None:
            one = self.published
            published = {"low": one.low, "high": one.high, "source": one.source}
        return {
            "quantity": str(self.quantity),
            "method": self.method,
            "network": self.network,
            "board": self.board,
            "published": published,
            "predicted": self.predicted.to_json(),
            "ratio": self.ratio,
            "fitted": self.fitted,
            "others": {name: value.to_json() for name, value in self.others.items()},
        }


@dataclass(frozen=True)
class Comparison:
    """All rows of a reproduction, and what to know of them before believing them."""

    name: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As one JSON document."""
        return {
            "schema": SCHEMA,
            "name": self.name,
            "rows": [row.to_json() for row in self.rows],
            "notes": list(self.notes),
        }


class Reproduction(Protocol):
    """Something published that can be predicted."""

    def compare(self, progress: Progress | None = None) -> Comparison:
        """Predict all of it."""
        ...
