"""The rows of a study, and the documents that its cells share, in one SQLite file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic

from costsim.studies.engine.cell import C
from costsim.studies.engine.cell_store import CellStore
from costsim.studies.engine.kind import Kind


class StudyStore(CellStore, Generic[C]):
    """The file of a study of this kind, made if it is not there; see `CellStore`."""

    def __init__(self, path: Path, kind: Kind[C], *, read_only: bool = False) -> None:
        self._shared = kind.shared_table
        tables = f"CREATE TABLE IF NOT EXISTS {self._shared} (key TEXT PRIMARY KEY, document TEXT)"
        super().__init__(
            path,
            schema=kind.schema,
            what="study",
            columns=kind.columns,
            unfinished=kind.broken,
            tables=[tables] if self._shared else [],
            read_only=read_only,
        )

    def shared(self, key: str) -> str | None:
        """The document under a key that cells share."""
        with self.opened() as database:
            row = database.execute(
                f"SELECT document FROM {self._shared} WHERE key = ?", (key,)
            ).fetchone()
        return None if row is None else str(row["document"])

    def keep_shared(self, key: str, document: str) -> None:
        """Keep a document; one that is there already stays."""
        with self.opened() as database:
            database.execute(f"INSERT OR IGNORE INTO {self._shared} VALUES (?, ?)", (key, document))

    def rows_of(self, cells: Sequence[C]) -> list[dict[str, Any]]:
        """The rows of `cells` that are there, named as the cells are now, not as when they ran."""
        found = {row["key"]: row for row in self.rows([cell.key for cell in cells])}
        return [{**found[cell.key], **cell.head} for cell in cells if cell.key in found]
