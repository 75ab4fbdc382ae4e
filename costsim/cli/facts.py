"""A table of what came out: a word for each fact, and the fact."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def facts_table(what: str, name: str, rows: Iterable[tuple[str, object]]) -> "Table":
    """`what` was done to `name` is the head; texts are shown as they are, brackets included."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column(what, no_wrap=True)
    table.add_column(name, overflow="fold")
    for word, fact in rows:
        table.add_row(word, Text(str(fact)))
    return table
