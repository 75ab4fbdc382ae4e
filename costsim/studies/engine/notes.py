"""What the cells of an experiment had to say of themselves, counted."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any


def note_counts(rows: Iterable[Mapping[str, Any]]) -> Mapping[str, int]:
    """Each sentence in the `note` of any row, behind its model, and in how many rows it is."""
    return Counter(
        f"{row['model']}: {sentence}"
        for row in rows
        for sentence in (row.get("note") or "").splitlines()
    )
