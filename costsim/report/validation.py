"""Predicted beside measured on a terminal."""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from costsim.base.units import counted, format_percent, format_seconds
from costsim.hardware.results.record import Comparison, Validation

_BYTES = ("kept", "weight gradients", "optimizer state")


def render_validation(console: Console, validation: Validation) -> None:
    """Print `validation` to `console`: the totals, then every layer that keeps or learns."""
    machine = validation.machine
    console.print(
        Text(
            f"{validation.model}: one training step, predicted"
            + (f" for {validation.device}" if validation.device else "")
            + f" and {validation.how} on {machine.cpu}, {machine.threads} "
            + ("thread" if machine.threads == 1 else "threads"),
            style="bold",
        )
    )
    for table in (_totals(validation), _layers(validation)):
        console.print(table)
        console.print()
    count = sum(one.tolerance is not None for one in validation.comparisons)
    outside = validation.outside
    if validation.ok:
        answer = f"All {count} comparisons are within their tolerance."
    else:
        names = ", ".join(f"{o.owner}: {o.quantity}" if o.owner else o.quantity for o in outside)
        answer = f"{len(outside)} of {counted(count, 'comparison')} outside tolerance: {names}"
    console.print(Text(answer, style="bold"))
    for note in validation.notes:
        console.print(Text(f"Note: {note}."))


def _table(*headings: str) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index else "left", overflow="fold")
    return table


def _totals(validation: Validation) -> Table:
    table = _table("whole step", "predicted", validation.how, "difference", "allowed")
    for one in validation.totals():
        difference = f"{one.difference:+,.4g}" if one.unit == "1" else f"{one.difference:+,}"
        difference = difference if one.difference else "0"
        allowed = "-" if one.tolerance is None else f"{one.tolerance:.2g}" if one.tolerance else "0"
        if one.tolerance and one.unit != "1":
            allowed = format_percent(one.tolerance)
        style = "bold red" if one.verdict == "outside" else ""
        unit = "" if one.unit in ("MACs", "1") else f", {one.unit}"
        cells = (f"{one.quantity}{unit}", _amount(one.predicted, one), _amount(one.measured, one))
        if one.tolerance is None:
            difference = "-"
        table.add_row(*(Text(cell) for cell in (*cells, difference, allowed)), style=style)
    return table


def _amount(value: float, one: Comparison) -> str:
    if one.unit == "s":
        return format_seconds(value)
    return f"{value:.6g}" if one.unit == "1" else f"{int(value):,}"


def _layers(validation: Validation) -> Table:
    """Where a layer's two numbers are equal one is shown, else both."""
    emulated = validation.how == "emulated"
    headings = ("layer", "kept B", "gradient B", "optimizer B", "backward MACs")
    table = _table(*headings, *(("emulated",) if emulated else ()))
    for owner, found in _shown(validation):
        cells = [_cell([found[what]] if what in found else []) for what in _BYTES]
        macs = [one for what, one in found.items() if one.unit == "MACs" and "forward" not in what]
        seconds = [format_seconds(one.measured) for one in found.values() if one.unit == "s"]
        style = "bold red" if any(one.verdict == "outside" for one in found.values()) else ""
        cells = [owner, *cells, _cell(macs), *((seconds or ["-"]) if emulated else [])]
        table.add_row(*(Text(cell) for cell in cells), style=style)
    return table


def _shown(validation: Validation) -> Iterator[tuple[str, dict[str, Comparison]]]:
    for owner, found in validation.by_owner().items():
        outside = any(one.verdict == "outside" for one in found.values())
        if outside or any(what in found for what in _BYTES):
            yield owner, found


def _cell(parts: list[Comparison]) -> str:
    if not parts:
        return "-"
    predicted = sum(int(one.predicted) for one in parts)
    measured = sum(int(one.measured) for one in parts)
    if all(one.verdict != "outside" for one in parts):
        return f"{measured:,}"
    return f"{predicted:,} but {measured:,}"
