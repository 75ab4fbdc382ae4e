"""The rows of a study, kept in one SQLite file: whatever is written survives a kill.

Table `cells` has one row a cell, its key unique, so that a cell is never there twice; a row is
written in one transaction when its cell is finished. Table `importances` has the channel scores
of each model and task, computed once. Other programs may read the file at any time.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from costsim.errors import InputError

SCHEMA = "costsim.comparison/1"
BUSY_S = 60.0

COLUMNS: Mapping[str, str] = {
    "key": "TEXT PRIMARY KEY",
    "problem": "TEXT NOT NULL",
    "solver": "TEXT NOT NULL",
    "model": "TEXT NOT NULL",
    "device": "TEXT NOT NULL",
    "budget": "TEXT NOT NULL",
    "domain": "TEXT NOT NULL",
    "seed": "INTEGER NOT NULL",
    "settings": "TEXT NOT NULL",
    "status": "TEXT NOT NULL",
    "gain": "REAL",
    "bound": "REAL",
    "total_gain": "REAL",
    "seconds": "REAL",
    "layers": "INTEGER",
    "channels": "INTEGER",
    "memory_bytes": "INTEGER",
    "memory_limit_bytes": "INTEGER",
    "accounting": "TEXT",
    "backward_macs": "INTEGER",
    "macs_limit": "INTEGER",
    "latency_s": "REAL",
    "fullest": "REAL",
    "plan": "TEXT",
    "reason": "TEXT",
}
"""`status` is the solver's, or `error`; `fullest` is the share used of the fullest budget; `gain`
and `bound` are sums of scores, `total_gain` that of all inspected channels."""


class Store:
    """One study file, made if it is not there. Raises `InputError` for a file that is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._opened() as database:
            database.execute("PRAGMA journal_mode=WAL")
            columns = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
            database.execute("CREATE TABLE IF NOT EXISTS meta (schema TEXT PRIMARY KEY)")
            database.execute("INSERT OR IGNORE INTO meta VALUES (?)", (SCHEMA,))
            database.execute(f"CREATE TABLE IF NOT EXISTS cells ({columns})")
            database.execute(
                "CREATE TABLE IF NOT EXISTS importances (key TEXT PRIMARY KEY, document TEXT)"
            )
            found = [row[0] for row in database.execute("SELECT schema FROM meta")]
        if found != [SCHEMA]:
            raise InputError(f"{path}: has schemas {', '.join(found)}; {SCHEMA} is needed")

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
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
            raise InputError(f"{self.path}: cannot be used as a study: {error}") from error

    def finished(self) -> frozenset[str]:
        """Keys of the cells that have an answer; errors are to be tried again."""
        with self._opened() as database:
            rows = database.execute("SELECT key FROM cells WHERE status != 'error'").fetchall()
        return frozenset(row["key"] for row in rows)

    def write(self, row: Mapping[str, Any]) -> None:
        """Keep one cell's row; an answer that is there already stays, an error does not."""
        values = [row.get(name) for name in COLUMNS]
        places = ", ".join("?" for _ in COLUMNS)
        updates = ", ".join(f"{name} = excluded.{name}" for name in COLUMNS if name != "key")
        with self._opened() as database:
            database.execute(
                f"INSERT INTO cells VALUES ({places}) ON CONFLICT (key) DO UPDATE SET {updates} "
                "WHERE cells.status = 'error'",
                values,
            )

    def rows(self, keys: Sequence[str]) -> list[dict[str, Any]]:
        """The rows of these cells, in this order; those that are missing are left out."""
        with self._opened() as database:
            found = {row["key"]: dict(row) for row in database.execute("SELECT * FROM cells")}
        return [found[key] for key in keys if key in found]

    def scores(self, key: str) -> dict[str, Any] | None:
        """What was kept under a key of channel scores."""
        with self._opened() as database:
            row = database.execute(
                "SELECT document FROM importances WHERE key = ?", (key,)
            ).fetchone()
        return None if row is None else json.loads(row["document"])

    def keep_scores(self, key: str, document: Mapping[str, Any]) -> None:
        """Keep channel scores; those that are there already stay."""
        text = json.dumps(document, allow_nan=False)
        with self._opened() as database:
            database.execute("INSERT OR IGNORE INTO importances VALUES (?, ?)", (key, text))
