"""A store one of whose rows is not as it was written: changed, or gone."""

import random
import re
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path

from .bench import check_one_line
from .experiment import Experiment
from .stage import Stage
from .together import SHARED
from .workloads import digest, rows

STORE = "study.sqlite"


def damaged_row(command: str, stage: Stage, times: int, chance: random.Random) -> tuple[int, str]:
    """A row of a finished run is changed or deleted; then what the message says is done."""
    bench = stage.bench(command)
    for number in range(times):
        place = bench.new(stage.new())
        ended = bench.start(place).wait()
        assert ended.status == 0, ended.err
        key = chance.choice(sorted(rows(place)))
        column = chance.choice([c for c in rows(place)[key] if c not in ("key", "status")])
        if number % 2:
            _do(place, "DELETE FROM cells WHERE key = ?", key)
        else:
            _do(place, f"UPDATE cells SET {column} = 'another' WHERE key = ?", key)
        damaged = digest(place / STORE)
        told = check_one_line(bench.start(place, again=True).wait(), "is damaged: the row of cell")
        named = re.search(r"the row of cell '(.*)' is not", told)
        assert named, told
        assert named[1] == key, told
        assert digest(place / STORE) == damaged, "the store is not as it was"
        for table in ("cells", "checksums"):
            _do(place, f"DELETE FROM {table} WHERE key = ?", key)
        bench.check_again(place)
    return times, "one line that names the cell, the store untouched; deleted, it is computed again"


def _do(place: Path, statement: str, key: str) -> None:
    with closing(sqlite3.connect(place / STORE)) as database, database:
        database.execute(statement, (key,))
        # All in one file, so that its bytes say whether anything was written.
        database.commit()
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


EXPERIMENTS = tuple(
    Experiment("a damaged row", f"costsim {name}", partial(damaged_row, name), 10, 2)
    for name in SHARED
)
