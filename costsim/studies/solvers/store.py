"""The rows of a study, kept in one SQLite file: whatever is written survives a kill.

Table `cells` has one row a cell, its key unique, so that a cell is never there twice; a row is
written in one transaction when its cell is finished. Table `importances` has the channel scores
of each model and task, computed once. Other programs may read the file at any time.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from costsim.base.files import parse_json
from costsim.studies.engine import CellStore

SCHEMA = "costsim.comparison/2"

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
    "accuracy_before": "REAL",
    "accuracy": "REAL",
    "training_s": "REAL",
    "plan": "TEXT",
    "reason": "TEXT",
    "note": "TEXT",
}
"""`status` is the solver's, or `error`; `fullest` is the share used of the fullest budget; `gain`
and `bound` are sums of scores, `total_gain` that of all inspected channels; the accuracies are
shares of the query images, before and after training by the plan, where a study asks for that.
`note` has what to know before believing an answer, a sentence a line."""


class Store(CellStore):
    """One study file, made if it is not there. Raises `InputError` for a file that is none."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            path,
            schema=SCHEMA,
            what="study",
            columns=COLUMNS,
            unfinished="error",
            tables=["CREATE TABLE IF NOT EXISTS importances (key TEXT PRIMARY KEY, document TEXT)"],
        )

    def scores(self, key: str) -> dict[str, Any] | None:
        """What was kept under a key of channel scores."""
        with self.opened() as database:
            row = database.execute(
                "SELECT document FROM importances WHERE key = ?", (key,)
            ).fetchone()
        if row is None:
            return None
        found: dict[str, Any] = parse_json(row["document"], f"{self.path}: importances {key}")
        return found

    def keep_scores(self, key: str, document: Mapping[str, Any]) -> None:
        """Keep channel scores; those that are there already stay."""
        text = json.dumps(document, allow_nan=False)
        with self.opened() as database:
            database.execute("INSERT OR IGNORE INTO importances VALUES (?, ?)", (key, text))
