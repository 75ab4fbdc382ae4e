"""A reproduction as text: tables that a terminal shows and Markdown reads, and what to know."""

from collections.abc import Callable, Iterator, Sequence

from costsim.base.units import (
    format_bytes,
    format_joules,
    format_macs,
    format_percent,
    format_seconds,
)
from costsim.device import Interval
from costsim.studies.published.comparison import Comparison, Row
from costsim.studies.published.figures import Quantity

Cells = list[str]

NONE = "-"
FITTED = " *"


def _times(value: float) -> str:
    return f"{value:,.3g}×" if value < 1000 else f"{value:,.0f}×"


def _minutes(value: float) -> str:
    """As the paper does, also where a person would say hours."""
    return f"{value / 60:.0f} min" if value >= 3600 else format_seconds(value)


SHOWN: dict[Quantity, tuple[str, Callable[[float], str]]] = {
    Quantity.MEMORY: ("memory of a backward pass, as the paper counts", format_bytes),
    Quantity.MACS: ("MACs of a backward pass, one image", format_macs),
    Quantity.TIME: ("time of the whole training", _minutes),
    Quantity.ENERGY: ("energy of the whole training", format_joules),
    Quantity.CHOOSING: ("time of choosing layers and channels", format_seconds),
    Quantity.CHOOSING_SHARE: ("choosing, share of the whole", format_percent),
    Quantity.LESS_MEMORY: ("memory, times TinyTrain's", _times),
    Quantity.FEWER_MACS: ("backward MACs, times TinyTrain's", _times),
    Quantity.FASTER: ("time, times TinyTrain's", _times),
    Quantity.LESS_ENERGY: ("energy, times TinyTrain's", _times),
}
"""What a person reads for each quantity, and how its amounts are written."""


def render_comparison(comparison: Comparison) -> str:
    """All rows as tables, one for a quantity and a board, and the notes below them."""
    parts = []
    for title, rows in _sections(comparison.rows):
        parts.append(f"## {title}\n\n{_table(rows)}")
    parts.append("## What to know of these\n\n" + "\n".join(f"- {n}" for n in comparison.notes))
    return "\n\n".join(parts) + "\n"


def _sections(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Rows of one quantity and board, in the order in which those come up."""
    for quantity, board in dict.fromkeys((row.quantity, row.board) for row in rows):
        name = SHOWN[quantity][0]
        title = name if board is None else f"{name}, {board}"
        found = [row for row in rows if (row.quantity, row.board) == (quantity, board)]
        yield title[0].upper() + title[1:], found


def _table(rows: Sequence[Row]) -> str:
    others = list(dict.fromkeys(name for row in rows for name in row.others))
    head = ["network", "method", "published", "predicted", "ratio", *others]
    body = [_cells(row, others) for row in rows]
    widths = [max(len(line[i]) for line in (head, *body)) for i in range(len(head))]
    rule = ["-" * width for width in widths[:2]] + ["-" * (width - 1) + ":" for width in widths[2:]]
    lines = [_line(head, widths), "| " + " | ".join(rule) + " |"]
    return "\n".join([*lines, *(_line(line, widths) for line in body)])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    aligned = [
        cell.ljust(width) if i < 2 else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "| " + " | ".join(aligned) + " |"


def _cells(row: Row, others: Sequence[str]) -> Cells:
    show = SHOWN[row.quantity][1]
    ratio = NONE if row.ratio is None else f"{row.ratio:.2f}" + FITTED * row.fitted
    return [
        row.network or "all",
        row.method,
        _published(row, show),
        _amount(row.predicted, show),
        ratio,
        *(show(row.others[name].value) if name in row.others else NONE for name in others),
    ]


def _published(row: Row, show: Callable[[float], str]) -> str:
    if row.published is None:
        return NONE
    low, high = row.published.low, row.published.high
    return show(low) if low == high else f"{show(low)} to {show(high)}"


def _amount(amount: Interval, show: Callable[[float], str]) -> str:
    if amount.low == amount.high:
        return show(amount.value)
    return f"{show(amount.value)} ({show(amount.low)} to {show(amount.high)})"
