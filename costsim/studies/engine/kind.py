"""What one kind of studies has of its own: columns, cells, and how a cell is computed."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Generic

from costsim.studies.engine.cell import C, Study
from costsim.studies.engine.workshop import Workshop


class Kind(ABC, Generic[C]):
    """One kind of studies; a subclass is a frozen dataclass and travels to the workers.

    `columns` are names and SQLite types of a row, `key`, `status` and `reason` among them. `broken`
    is the status of a cell that has no answer and is tried again by the next run. `keys` are those
    of a study's file. `doing` is what a person is told that a run does. `preload` are modules that
    every worker needs. `shared_table` is where documents are kept that cells share, if they do.
    """

    schema: ClassVar[str]
    columns: ClassVar[Mapping[str, str]]
    broken: ClassVar[str]
    keys: ClassVar[tuple[str, ...]]
    doing: ClassVar[str]
    preload: ClassVar[tuple[str, ...]] = ()
    shared_table: ClassVar[str | None] = None

    @abstractmethod
    def study(self, document: object, source: str, folder: Path) -> Study[C]:
        """The study that a parsed YAML document describes; see `parse_study`."""

    @abstractmethod
    def workshop(self) -> Workshop[C]:
        """Where cells are computed: one for each thread of a worker."""

    def in_order(self, cells: Sequence[C]) -> Sequence[C]:
        """The order in which cells are begun."""
        return cells
