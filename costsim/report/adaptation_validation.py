"""An adaptation on a terminal: predicted beside measured, phase by phase."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from costsim.base.units import counted, format_seconds
from costsim.hardware.results.adaptation_validation import AdaptationValidation
from costsim.hardware.results.record import Comparison

_HEADINGS = ("predicted", "measured", "difference", "allowed")


def render_adaptation(console: Console, validation: AdaptationValidation) -> None:
    """Print `validation` to `console`: the whole, then every phase."""
    machine = validation.machine
    console.print(
        Text(
            f"{validation.model}: one adaptation ({validation.extent}), predicted"
            + (f" for {validation.device}" if validation.device else "")
            + f" and measured on {machine.cpu}, {counted(machine.threads, 'thread')}",
            style="bold",
        )
    )
    console.print(_table("whole adaptation", list(validation.totals())))
    console.print()
    for phase, found in validation.by_owner().items():
        runs = validation.runs.get(phase, 0)
        console.print(_table(f"{phase}, run {counted(runs, 'time')}", list(found.values())))
        console.print()
    console.print(Text(_answer(validation), style="bold"))
    for note in validation.notes:
        console.print(Text(f"Note: {note}."))


def _answer(validation: AdaptationValidation) -> str:
    count = sum(one.tolerance is not None for one in validation.comparisons)
    if validation.ok:
        return f"All {count} comparisons are equal."
    names = ", ".join(
        f"{one.owner}: {one.quantity}" if one.owner else one.quantity for one in validation.outside
    )
    return f"{len(validation.outside)} of {counted(count, 'comparison')} differ: {names}"


def _table(heading: str, comparisons: Sequence[Comparison]) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for index, words in enumerate((heading, *_HEADINGS)):
        table.add_column(words, justify="right" if index else "left", overflow="fold")
    for one in comparisons:
        unit = f", {one.unit}" if one.unit in ("bytes", "s") else ""
        style = "bold red" if one.verdict == "outside" else ""
        informal = one.tolerance is None
        cells = (
            f"{one.quantity}{unit}",
            _amount(one.predicted, one),
            _amount(one.measured, one),
            "-" if informal else f"{one.difference:+,}" if one.difference else "0",
            "-" if informal else "0",
        )
        table.add_row(*(Text(cell) for cell in cells), style=style)
    return table


def _amount(value: float, one: Comparison) -> str:
    return format_seconds(value) if one.unit == "s" else f"{int(value):,}"
