"""Rows of finished cells, kept in one SQLite file: whatever is written survives a kill.

Table `cells` has one row a cell, its key unique, so that a cell is never there twice; a row is
written in one transaction when its cell is finished. Table `claims` says which process is at which
cell, table `failures` how often a cell ended without an answer, table `checksums` has one of every
row, because SQLite notices no byte that a disk changed. Other programs may read the file at any
time.
"""

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn

from costsim.base.errors import InputError, shown
from costsim.base.files import told_path, why
from costsim.studies.engine.claimant import Owner

BUSY_S = 60.0
_SIGNED = "SELECT 1 FROM sqlite_master WHERE name = 'checksums'"
EXPIRES_S = 60.0
"""After which a claim lapses that nobody confirmed, where its process cannot be asked after."""

CLAIMS = (
    "CREATE TABLE IF NOT EXISTS claims "
    "(key TEXT PRIMARY KEY, owner TEXT NOT NULL, confirmed_s REAL NOT NULL)",
    "CREATE TABLE IF NOT EXISTS failures (key TEXT PRIMARY KEY, times INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS checksums (key TEXT PRIMARY KEY, sha256 TEXT NOT NULL)",
)


class Claim(Enum):
    """What came of a claim."""

    MINE = "the process may begin"
    HELD = "another process is at it"
    DONE = "there is nothing left to do"


class CellStore:
    """One file, made if it is not there; for reading only, it must be.

    `columns` are names and SQLite types; `key` and `status` are among them. A row whose status is
    `unfinished` is tried again and then replaced; any other stays as it is. `tables` are further
    statements that make tables. Raises `InputError` for a file of another schema, with a row that
    is not as it was written, or that cannot be read or written, such as on a full disk.
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
        new = not path.exists()
        try:
            self._check(schema)
            if not read_only:
                self._make(schema, (*CLAIMS, *tables))
        except InputError:
            if new:
                self._remove_if_empty()
            raise

    def _check(self, schema: str) -> None:
        """Raise `InputError` for a file of anything else, and leave it as it is."""
        with self.opened() as database:
            tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master")}
            if not tables and not self.read_only:
                return
            if not {"meta", "cells"} <= tables:
                raise InputError(f"{self.path}: is no {self.what}, but another's database")
            found = [row[0] for row in database.execute("SELECT schema FROM meta")]
            if found != [schema]:
                told = ", ".join(map(str, found)) or "none"
                raise InputError(f"{self.path}: has schemas {told}; {schema} is needed")
            columns = [row["name"] for row in database.execute("PRAGMA table_info(cells)")]
            self._verify(database)
        if columns != list(self.columns):
            raise InputError(
                f"{self.path}: was made by another version of costsim, with other columns of "
                f"{schema}; begin a new {self.what}"
            )

    def _make(self, schema: str, tables: Sequence[str]) -> None:
        with self.opened() as database:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("BEGIN IMMEDIATE")  # all tables or none
            declared = ", ".join(f"{name} {kind}" for name, kind in self.columns.items())
            database.execute("CREATE TABLE IF NOT EXISTS meta (schema TEXT PRIMARY KEY)")
            database.execute("INSERT OR IGNORE INTO meta VALUES (?)", (schema,))
            database.execute(f"CREATE TABLE IF NOT EXISTS cells ({declared})")
            known = database.execute(_SIGNED).fetchone()
            for statement in tables:
                database.execute(statement)
            if known is None:  # rows from before there were any
                for row in database.execute("SELECT * FROM cells").fetchall():
                    self._sign(database, row["key"], row)

    def _verify(self, database: sqlite3.Connection) -> None:
        """Raise `InputError` unless the rows are those that were written, all of them."""
        if not database.execute(_SIGNED).fetchone():
            return  # only looked at, and from before there were any
        sums = dict(database.execute("SELECT key, sha256 FROM checksums").fetchall())
        for row in database.execute("SELECT * FROM cells"):
            if sums.pop(row["key"], None) != checksum(row):
                self._refuse_row(row["key"])
        for key in sums:
            self._refuse_row(key)

    def _refuse_row(self, key: object) -> NoReturn:
        raise InputError(
            f"{self.path}: is damaged: the row of cell {shown(key)} is not as it was written; "
            f"delete it from tables cells and checksums, or begin a new {self.what}"
        )

    def _sign(self, database: sqlite3.Connection, key: str, row: sqlite3.Row) -> None:
        database.execute("INSERT OR REPLACE INTO checksums VALUES (?, ?)", (key, checksum(row)))

    def _remove_if_empty(self) -> None:
        """Leave nothing behind of a file that could not be made; another run may have made it."""
        with suppress(sqlite3.Error), closing(sqlite3.connect(self.path)) as database:
            if database.execute("SELECT 1 FROM sqlite_master").fetchone() is not None:
                return
        for ending in ("", "-wal", "-shm", "-journal"):
            with suppress(OSError):
                self.path.with_name(self.path.name + ending).unlink()

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
        except (sqlite3.Error, UnicodeDecodeError, OverflowError) as error:
            raise InputError(
                f"{told_path(self.path)}: cannot be used as a {self.what}: {why(error)}"
            ) from error

    def finished(self) -> frozenset[str]:
        """Keys of the cells that have an answer."""
        with self.opened() as database:
            rows = database.execute(
                "SELECT key FROM cells WHERE status != ?", (self.unfinished,)
            ).fetchall()
        return frozenset(row["key"] for row in rows)

    def write(self, row: Mapping[str, Any]) -> None:
        """Keep one cell's row, which ends its claim; an answer that is there already stays."""
        values = [row.get(name) for name in self.columns]
        places = ", ".join("?" for _ in self.columns)
        updates = ", ".join(f"{name} = excluded.{name}" for name in self.columns if name != "key")
        with self.opened() as database:
            database.execute(
                f"INSERT INTO cells VALUES ({places}) ON CONFLICT (key) DO UPDATE SET {updates} "
                "WHERE cells.status = ?",
                [*values, self.unfinished],
            )
            kept = database.execute("SELECT * FROM cells WHERE key = ?", (row["key"],)).fetchone()
            self._sign(database, row["key"], kept)
            database.execute("DELETE FROM claims WHERE key = ?", (row["key"],))
            if row["status"] == self.unfinished:
                database.execute(
                    "INSERT INTO failures VALUES (?, 1) "
                    "ON CONFLICT (key) DO UPDATE SET times = times + 1",
                    (row["key"],),
                )

    def failures(self) -> dict[str, int]:
        """How often cells ended without an answer."""
        with self.opened() as database:
            return dict(database.execute("SELECT key, times FROM failures").fetchall())

    def claim(self, key: str, owner: Owner, *, failures: int = 0) -> Claim:
        """Have `owner` work on what `key` stands for, unless it is done or somebody is at it.

        Done is also a cell that has ended without an answer more often than `failures` times.
        """
        with self.opened() as database:
            database.execute("BEGIN IMMEDIATE")
            done = database.execute(
                "SELECT 1 FROM cells WHERE key = :key AND status != :unfinished UNION ALL "
                "SELECT 1 FROM failures WHERE key = :key AND times > :failures",
                {"key": key, "unfinished": self.unfinished, "failures": failures},
            ).fetchone()
            if done is not None:
                return Claim.DONE
            found = database.execute("SELECT * FROM claims WHERE key = ?", (key,)).fetchone()
            if found is not None and found["owner"] != str(owner) and _holds(found):
                return Claim.HELD
            database.execute(
                "INSERT OR REPLACE INTO claims VALUES (?, ?, ?)", (key, str(owner), time.time())
            )
        return Claim.MINE

    def claimed(self, *, aside: Iterable[Owner] = ()) -> frozenset[str]:
        """Keys that processes are at now, those of `aside` left out."""
        ours = {str(owner) for owner in aside}
        with self.opened() as database:
            rows = database.execute("SELECT * FROM claims").fetchall()
        return frozenset(row["key"] for row in rows if row["owner"] not in ours and _holds(row))

    def confirm(self, owners: Iterable[Owner]) -> None:
        """Say that these processes are still there."""
        now = time.time()
        with self.opened() as database:
            database.executemany(
                "UPDATE claims SET confirmed_s = ? WHERE owner = ?",
                [(now, str(owner)) for owner in owners],
            )

    def release(self, owners: Iterable[Owner], key: str | None = None) -> None:
        """End the claims of these processes, or only theirs on `key`."""
        with self.opened() as database:
            database.executemany(
                "DELETE FROM claims WHERE owner = ? AND key = ifnull(?, key)",
                [(str(owner), key) for owner in owners],
            )

    def rows(self, keys: Sequence[str]) -> list[dict[str, Any]]:
        """The rows of these cells, in this order; those that are missing are left out."""
        with self.opened() as database:
            self._verify(database)
            found = {row["key"]: dict(row) for row in database.execute("SELECT * FROM cells")}
        return [found[key] for key in keys if key in found]


def checksum(row: sqlite3.Row) -> str:
    """SHA-256 of a row's values as SQLite gives them back."""
    values = json.dumps([str(value) if isinstance(value, bytes) else value for value in row])
    return hashlib.sha256(values.encode()).hexdigest()


def _holds(claim: sqlite3.Row) -> bool:
    """Whether a row of `claims` still counts."""
    lives = Owner.parse(claim["owner"]).lives()
    return abs(time.time() - claim["confirmed_s"]) < EXPIRES_S if lives is None else lives
