"""A study of methods on a terminal, and the cells that its other forms share."""

from collections.abc import Callable, Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from costsim.base.intervals import STATISTIC, Mean
from costsim.base.units import (
    format_bytes,
    format_joules,
    format_macs,
    format_seconds,
)
from costsim.report.budgets import BUDGETS
from costsim.studies.methods.analysis import AVERAGE, Line, MethodFindings

MEMORY = {
    "peak": "peak_bytes",
    "arena": "arena_bytes",
    "paper": "paper_bytes",
    "tiny-training": "tiny_training_bytes",
    "autograd": "autograd_bytes",
}
"""The accountings of the memory column."""

OUTSIDE = "†"
"""Marks a method whose step is outside the budget."""


def domain_columns(findings: MethodFindings) -> tuple[str, ...]:
    """The domains, and their average where there are several."""
    return (*findings.domains, AVERAGE) if len(findings.domains) > 1 else findings.domains


def groups(findings: MethodFindings) -> Iterator[tuple[str, list[Line]]]:
    """The lines of each model and device, with a heading."""
    found: dict[str, list[Line]] = {}
    for line in findings.lines:
        found.setdefault(f"{line.model} on {line.device}", []).append(line)
    yield from found.items()


def percent(mean: Mean | None, *, signed: bool = False) -> str:
    """Such as `69.3 ± 1.1`, in per cent; a dash where there is none."""
    if mean is None:
        return "-"
    value = f"{100 * mean.value:+z.1f}" if signed else f"{100 * mean.value:.1f}"
    return value if mean.half is None else f"{value} ± {100 * mean.half:.1f}"


def pooled_rows(findings: MethodFindings) -> list[tuple[str, str, str, str, str]]:
    """Device, method, tasks, accuracy and points over the reference, of several models."""
    return [
        (
            one.device,
            one.method,
            str(one.tasks),
            percent(one.accuracy),
            "-" if one.method == findings.reference else percent(one.over_reference, signed=True),
        )
        for one in findings.over_models()
    ]


def memory_heading(accounting: str) -> str:
    """Memory without a name is the peak."""
    return "memory" if accounting == "peak" else f"memory ({accounting})"


def marked(line: Line) -> str:
    """The method, marked where a step of it was outside the budget in any task."""
    return f"{line.method} {OUTSIDE}" if line.outside else line.method


def cost_cells(line: Line, accounting: str) -> tuple[str, str, str, str]:
    """Memory, backward MACs a sample, time and energy of the whole adaptation."""
    costs, trains = line.costs, bool(line.costs["backward_macs"])

    def told(name: str, write: Callable[[float], str]) -> str:
        value = costs[name]
        if value is None:
            return "does not fit" if trains else "-"
        return write(value)

    memory = costs[MEMORY[accounting]]
    return (
        format_bytes(memory) if memory else "-",
        "-" if not trains else format_macs(costs["backward_macs"] or 0.0),
        told("task_s", format_seconds) if line.tasks else "-",
        told("task_j", format_joules) if line.tasks else "-",
    )


def print_study(console: Console, findings: MethodFindings, accounting: str = "peak") -> None:
    """Print the table: accuracy by domain, then points over the reference beside the costs."""
    for title, lines in groups(findings):
        columns = domain_columns(findings)
        console.print(Text(f"{title}: accuracy, %", style="bold"))
        console.print(_accuracy(console, lines, columns))
        console.print()
        over = f"over {findings.reference}"
        costs = _table(["method", over, memory_heading(accounting), "MACs", "time", "energy"])
        for line in lines:
            mean = line.over_reference[AVERAGE]
            own = line.method == findings.reference
            told = "-" if own else percent(mean, signed=True)
            costs.add_row(*map(Text, [marked(line), told, *cost_cells(line, accounting)]))
        console.print(Text(f"{title}: points {over}, and cost", style="bold"))
        console.print(costs)
        console.print()
    if pooled := pooled_rows(findings):
        headings = ["device", "method", "tasks", "accuracy, %", f"over {findings.reference}"]
        table = _table(headings, words=2)
        for row in pooled:
            table.add_row(*map(Text, row))
        console.print(Text("all models, each counting the same", style="bold"))
        console.print(table)
        console.print()
    console.print(Text(footnote(findings, accounting)))
    for line in findings.lines:
        if line.refused:
            console.print(Text(f"{line.method}, {line.model}, {line.device}: {line.refused}"))


def _accuracy(console: Console, lines: Sequence[Line], columns: Sequence[str]) -> Table:
    """By domain; the intervals stand below where the terminal is too narrow for them."""
    headings = ["method", "tasks", *(name.replace("_", " ") for name in columns)]
    tables = []
    for between in ("", "\n"):
        table = _table(headings)
        for line in lines:
            cells = [percent(line.accuracy[name]).replace(" ± ", f"{between}±") for name in columns]
            table.add_row(*map(Text, [marked(line), str(line.tasks), *cells]))
        tables.append(table)
    wide, high = tables
    unfolded = console.options.update(max_width=10_000)
    return wide if Measurement.get(console, unfolded, wide).maximum <= console.width else high


def footnote(findings: MethodFindings, accounting: str) -> str:
    """What the figures mean."""
    return (
        f"{STATISTIC}; points over {findings.reference} are of the same tasks. "
        f"Memory ({accounting}) and backward MACs (a sample) of a step, time and energy of the "
        "whole adaptation: predicted for the device, medians over tasks. "
        f"{findings.finished} of {findings.cells} cells are finished."
        f"{_outside(findings)}{_rates(findings)}"
    )


def _outside(findings: MethodFindings) -> str:
    """Which methods' steps were outside the budget, by what, and in how many tasks."""
    told = []
    several = len({(line.model, line.device) for line in findings.lines}) > 1
    for line in findings.lines:
        if line.outside:
            limits = (
                f"{BUDGETS[limit][0]} in {count} of {line.tasks} tasks"
                for limit, count in line.outside.items()
            )
            where = f" of {line.model} on {line.device}" if several else ""
            told.append(f"{line.method}{where}, {', '.join(limits)}")
    return f" {OUTSIDE} outside the budget: {'; '.join(told)}." if told else ""


def _rates(findings: MethodFindings) -> str:
    """Which learning rate each domain took, where a method ran at several."""
    told = []
    several = len({(line.model, line.device) for line in findings.lines}) > 1
    for line in findings.lines:
        by_rate: dict[float, list[str]] = {}
        for domain, rate in line.learning_rates.items():
            by_rate.setdefault(rate, []).append(domain)
        if by_rate:
            parts = [f"{rate:g} on {', '.join(names)}" for rate, names in sorted(by_rate.items())]
            if len(by_rate) == 1 and len(line.learning_rates) > 1:
                parts = [f"{next(iter(by_rate)):g} on all"]
            where = f" of {line.model} on {line.device}" if several else ""
            told.append(f"{line.method}{where}: {'; '.join(parts)}.")
    if not told:
        return ""
    return " Learning rates, each domain's chosen on the others: " + " ".join(told)


def _table(headings: Sequence[str], words: int = 1) -> Table:
    """Empty; the first `words` columns are words, the others figures."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    for index, heading in enumerate(headings):
        table.add_column(
            Text(heading),
            justify="right" if index >= words else "left",
            overflow="fold",
            no_wrap=index < words,
        )
    return table
