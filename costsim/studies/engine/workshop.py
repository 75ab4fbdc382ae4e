"""The work of one process: cells computed one after another, what they share kept between them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic

from costsim.base.errors import CostsimError
from costsim.studies.engine.cell import C, Cell


@dataclass(frozen=True)
class Computed:
    """What came of a cell: its row, and the document that cells share if it was made here."""

    row: Mapping[str, Any]
    shared: str | None = None


class Workshop(ABC, Generic[C]):
    """Computes cells; an error of one is a row of status `broken`, and takes no other down."""

    def __init__(self, broken: str) -> None:
        self.broken = broken

    def computed(self, cell: C, shared: str | None = None) -> Computed:
        """What comes of a cell; `shared` is the document of its `shared_key`, if there is one."""
        try:
            return self.answer(cell, shared)
        except Exception as error:
            return Computed(failed(cell, error, self.broken))

    @abstractmethod
    def answer(self, cell: C, shared: str | None) -> Computed:
        """As `computed`, but what it raises becomes a row without an answer."""


def failed(cell: Cell, error: BaseException, status: str) -> dict[str, Any]:
    """The row of a cell that broke: its head, and the error on one line."""
    told = " ".join(str(error).split())
    reason = told if isinstance(error, CostsimError) else f"{type(error).__name__}: {told}"
    return {**cell.head, "status": status, "reason": reason}
