"""Rows of finished cells, kept in one SQLite file: whatever is written survives a kill.

Table `cells` has one row a cell, its key unique, so that a cell is never there twice; a row is
written in one transaction when its cell is finished. Other programs may read the file at any time.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from costsim.errors import InputError

BUSY_S = 60.0


class CellStore:
    """One file, made if it is not there; for reading only, it must be.

    `columns` are names and SQLite types; `key` and `status` are among them. A row whose status is
    `unfinished` is tried again and then replaced; any other stays as it is. `tables` are further
    statements that make tables. Raises `InputError` for a file of another schema or that cannot be
    read or written, such as on a full disk.
    """

    def __init__(
        self,
        path: Path,
        *,
        schema: str,
        what: str,
        columns: Mapping[str, str],
        unfinished: str,
        tables: Sequence[str] = (),
        read_only: bool = False,
    ) -> None:
        self.path, self.what, self.columns, self.unfinished = path, what, columns, unfinished
        self.read_only = read_only
        if read_only and not path.is_file():
            raise InputError(f"{path}: there is no {what} yet")
        with self.opened() as database:
            if not read_only:
                database.execute("PRAGMA journal_mode=WAL")
                declared = ", ".join(f"{name} {kind}" for name, kind in columns.items())
                database.execute("CREATE TABLE IF NOT EXISTS meta (schema TEXT PRIMARY KEY)")
                database.execute("INSERT OR IGNORE INTO meta VALUES (?)", (schema,))
                database.execute(f"CREATE TABLE IF NOT EXISTS cells ({declared})")
                for statement in tables:
                    database.execute(statement)
            found = [row[0] for row in database.execute("SELECT schema FROM meta")]
        if found != [schema]:
            raise InputError(f"{path}: has schemas {', '.join(found)}; {schema} is needed")

    @contextmanager
    def opened(self) -> Iterator[sqlite3.Connection]:
        """A connection whose changes are one transaction."""
        try:
            database = sqlite3.connect(self.path, timeout=BUSY_S)
            try:
                database.row_factory = sqlite3.Row
                # In WAL mode a kill loses nothing that was committed; only a power cut may.
                database.execute("PRAGMA synchronous=NORMAL")
                with database:
                    yield database
            finally:
                database.close()
        except sqlite3.Error as error:
            raise InputError(f"{self.path}: cannot be used as a {self.what}: {error}") from error

    def finished(self) -> frozenset[str]:
        """Keys of the cells that have an answer."""
        with self.opened() as database:
            rows = database.execute(
                "SELECT key FROM cells WHERE status != ?", (self.unfinished,)
            ).fetchall()
        return frozenset(row["key"] for row in rows)

    def write(self, row: Mapping[str, Any]) -> None:
        """Keep one cell's row; an answer that is there already stays."""
        values = [row.get(name) for name in self.columns]
        places = ", ".join("?" for _ in self.columns)
        updates = ", ".join(f"{name} = excluded.{name}" for name in self.columns if name != "key")
        with self.opened() as database:
            database.execute(
                f"INSERT INTO cells VALUES ({places}) ON CONFLICT (key) DO UPDATE SET {updates} "
                "WHERE cells.status = ?",
                [*values, self.unfinished],
            )

    def rows(self, keys: Sequence[str]) -> list[dict[str, Any]]:
        """The rows of these cells, in this order; those that are missing are left out."""
        with self.opened() as database:
            found = {row["key"]: dict(row) for row in database.execute("SELECT * FROM cells")}
        return [found[key] for key in keys if key in found]
