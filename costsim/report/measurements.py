"""Predicted beside measured, target by target, on a terminal."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from costsim.base.units import format_bytes, format_joules, format_percent, format_seconds
from costsim.hardware.results.comparison import NOT_JUDGED
from costsim.hardware.results.measurement_file import Beside, MeasurementFile

_FORMATS = {"s": format_seconds, "J": format_joules, "bytes": format_bytes}


def render_measurements(console: Console, found: MeasurementFile) -> None:
    """Print `found` to `console`: one table for each target, then what to know about them."""
    rows = found.comparisons()
    model = found.plan["model"]["name"]
    by_target: dict[str, list[Beside]] = {}
    for row in rows:
        by_target.setdefault(row.target, []).append(row)
    for target, beside in by_target.items():
        runs = [run.outcome for run in found.runs if run.outcome.target == target]
        machine = next((one.measurement.machine for one in runs if one.measurement), None)
        where = "" if machine is None else f" ({machine.cpu}, {_count(machine.threads, 'thread')})"
        cut = ", the last cut short" if runs[-1].partial else ""
        device = f", predicted for {found.predicted.device}" if found.predicted.device else ""
        count = f"{_count(len(runs), 'run')}{cut}"
        console.print(Text(f"{model} on {target}{where}: {count}{device}", style="bold"))
        console.print(_table(beside))
        for name, value in runs[-1].counts.items():
            console.print(Text(f"{name}: {value:,.6g} ({runs[-1].how})"))
        console.print()
    for note in notes_of(found):
        console.print(Text(f"Note: {note}."))


def amount(row: Beside, value: float) -> str:
    """A value of a quantity, with its unit."""
    return _FORMATS[row.unit](value)


def notes_of(found: MeasurementFile) -> tuple[str, ...]:
    """What to know before believing it, each once."""
    told = dict.fromkeys(
        [
            *found.notes,
            *(
                f"{target} is not {found.predicted.device} ({why}): seconds and joules are "
                f"{NOT_JUDGED}"
                for target, why in found.unlike.items()
            ),
            *(
                f"{run.outcome.target}: {note}"
                for run in found.runs
                for note in (
                    *run.outcome.notes,
                    *(run.outcome.measurement.warnings if run.outcome.measurement else ()),
                )
            ),
        ]
    )
    return tuple(told)


def _table(rows: list[Beside]) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    headings = ("a step", "predicted", "between", rows[0].how, "ratio", "within", "spread of runs")
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index else "left", overflow="fold")
    for row in rows:
        told = _FORMATS[row.unit]
        within = "-" if row.holds is None else "yes" if row.holds else "no"
        between = "-"
        if row.low is not None and row.high is not None and row.low < row.high:
            between = f"{told(row.low)} to {told(row.high)}"
        cells = (
            row.quantity,
            "-" if row.predicted is None else told(row.predicted),
            between,
            told(row.measured),
            "-" if row.ratio is None else f"{row.ratio:.2f}",
            within,
            "-" if row.floor is None else format_percent(row.floor),
        )
        table.add_row(*(Text(cell) for cell in cells), style="red" if row.holds is False else "")
    return table


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
