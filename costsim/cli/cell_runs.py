"""What a person is told on stderr of a run of many cells."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from costsim.base.units import counted, format_seconds

if TYPE_CHECKING:
    from costsim.studies.engine import Done

FAILURES_SHOWN = 5


def progress_line(what: str, done: "Done") -> str:
    """How far a run has come."""
    text = f"{what}: {done.done}/{done.total} cells"
    if done.remaining_s is not None and done.done < done.total:
        text += f", about {format_seconds(done.remaining_s)} left"
    if done.elsewhere:
        text += f", another run is at {done.elsewhere} of them"
    return text


def tell_computed(computed: int, total: int, begun: float) -> None:
    """How many cells were computed since `begun`, a time of `time.monotonic`."""
    print(
        f"costsim: {computed} of {total} cells computed in "
        f"{format_seconds(time.monotonic() - begun)}, {total - computed} by other runs",
        file=sys.stderr,
    )


def tell_notes(rows: Sequence[Mapping[str, Any]]) -> None:
    """What to know of the answers before believing them, each once."""

    from costsim.studies.engine.notes import note_counts

    for note, count in note_counts(rows).items():
        print(f"costsim: note: {note} ({count} of {counted(len(rows), 'cell')})", file=sys.stderr)


def tell_failures(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """The first cells that failed, named by `columns` and their seed, and how many in all."""
    for row in rows[:FAILURES_SHOWN]:
        where = ", ".join(str(row[name]) for name in columns)
        print(f"costsim: {where} seed {row['seed']}: {row['reason']}", file=sys.stderr)
    if len(rows) > FAILURES_SHOWN:
        print(f"costsim: {len(rows)} cells failed in all", file=sys.stderr)
