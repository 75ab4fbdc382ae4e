"""A study of methods on a terminal, as one HTML file, as LaTeX and as CSV."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from markupsafe import Markup
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from costsim.base.intervals import STATISTIC, Mean
from costsim.base.units import (
    counted,
    format_bytes,
    format_joules,
    format_macs,
    format_percent,
    format_seconds,
)
from costsim.report.budgets import BUDGETS
from costsim.report.html import Made, Picture, render_template
from costsim.report.spots import Spot
from costsim.report.svg import COLOURS, drawing, to_svg
from costsim.studies.methods.analysis import AVERAGE, Line, MethodFindings
from costsim.studies.methods.cells import MethodCell
from costsim.studies.methods.store import COLUMNS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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

INKS = ("kept", "dweights", "weights", "optimizer", "gradient", "limit", "quiet")
MARKS = "osD^vPX"
LEAST_ROOM = 2.1
"""Times the least and the most memory, so that a single method has an axis with two ticks."""

_SIZES = ((9.2, "wide"), (3.7, "narrow"))


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


_COMPUTED_BY = {"torch": "PyTorch", "native": "kernels compiled for the machine (native)"}


def settings_rows(cells: Sequence[MethodCell]) -> list[tuple[str, str]]:
    """What all cells have in common: seeds, budget, recipe; nothing without cells."""
    if not cells:
        return []
    recipe, budget = cells[0].recipe, cells[0].budget
    seeds = sorted({cell.seed for cell in cells})
    run = len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1))
    limits = {one.name: getattr(budget, one.name) for one in fields(budget)}
    given = [_limit(name, value) for name, value in limits.items() if value is not None]
    usual = type(recipe)()
    parts = [counted(recipe.iterations, "iteration"), recipe.optimizer]
    parts += [
        f"{one.name.replace('_', ' ')} {getattr(recipe, one.name)}"
        for one in fields(recipe)
        if one.name not in ("iterations", "optimizer", "seed")
        and getattr(recipe, one.name) != getattr(usual, one.name)
    ]
    return [
        ("Seeds", f"{seeds[0]} to {seeds[-1]}" if run else ", ".join(map(str, seeds))),
        ("Budget", ", ".join(given) or "as each device recommends"),
        ("Recipe", f"{', '.join(parts)}; else as usual"),
        ("Computed by", _COMPUTED_BY[cells[0].backend]),
    ]


def _limit(name: str, value: float | str) -> str:
    """A limit of a step, as a person reads it."""
    if name == "macs_share":
        return f"{format_percent(float(value))} of the backward MACs"
    if name in BUDGETS:
        words, write = BUDGETS[name]
        return f"{words} {write(float(value))}"
    return f"in the {value} accounting"


def conclusion(findings: MethodFindings, accounting: str = "peak") -> str:
    """What the study says, in a sentence or two for each model and device; of tasks, never more.

    The method with the highest mean accuracy within the budget, what it brings over the reference,
    and whether that is sure.
    """
    told = []
    several = len({(line.model, line.device) for line in findings.lines}) > 1
    for title, lines in groups(findings):
        where = f" for {title}" if several else ""
        told.append(_best(findings, lines, where, accounting))
    return " ".join(told) or "No cell of the study is finished."


def _best(findings: MethodFindings, lines: Sequence[Line], where: str, accounting: str) -> str:
    known = [line for line in lines if line.accuracy[AVERAGE] is not None and not line.outside]
    if not known:
        return f"No method is within the budget{where}{_best_outside(lines)}."
    best = max(known, key=lambda line: (line.accuracy[AVERAGE] or Mean(0, None, 0)).value)
    accuracy, over = best.accuracy[AVERAGE], best.over_reference[AVERAGE]
    tasks = counted(best.tasks, "task")
    if best.method == findings.reference:
        few = accuracy is not None and accuracy.half is None
        sure = "; too few tasks to call any method better or worse" if few else ""
        told = f"No method within the budget brings more than {best.method}{where}: "
        return f"{told}{percent(accuracy)} % over {tasks}{sure}."
    told = f"{best.method} has the highest mean accuracy within the budget{where}: "
    told += f"{percent(accuracy)} % over {tasks}"
    memory = best.costs[MEMORY[accounting]]
    if memory and best.costs["backward_macs"]:
        told += f", with {format_bytes(memory)} of {memory_heading(accounting)}"
    if over is None:
        return f"{told}."
    points = f"{percent(over, signed=True)} points over {findings.reference}"
    if over.low is None:
        return f"{told}, {points}; too few tasks to call it better."
    sure = "surely more" if over.low > 0 else "not surely more"
    return f"{told}, {points}, {sure}."


def _best_outside(lines: Sequence[Line]) -> str:
    """The highest mean accuracy where no method keeps to the budget."""
    known = [(mean.value, line) for line in lines if (mean := line.accuracy[AVERAGE])]
    if not known:
        return ""
    _, best = max(known, key=lambda one: one[0])
    tasks = counted(best.tasks, "task")
    return f"; outside it {best.method} reaches {percent(best.accuracy[AVERAGE])} % over {tasks}"


def render_study(
    findings: MethodFindings,
    accounting: str = "peak",
    cells: Sequence[MethodCell] = (),
    made: Made | None = None,
) -> str:
    """The page of a study, of which `cells` say the settings: the same rows give the same bytes."""
    sections = []
    for number, (title, lines) in enumerate(groups(findings)):
        rows = [
            {
                "method": marked(line),
                "tasks": line.tasks,
                "accuracy": [percent(line.accuracy[name]) for name in domain_columns(findings)],
                "over_reference": [
                    "-"
                    if line.method == findings.reference
                    else percent(line.over_reference[name], signed=True)
                    for name in domain_columns(findings)
                ],
                "costs": cost_cells(line, accounting),
                "refused": line.refused,
            }
            for line in lines
        ]
        drawn = [line for line in lines if _point(line, accounting) is not None]
        level = [line for line in lines if line.tasks and not line.costs["backward_macs"]]
        picture = None
        if drawn:
            picture = Picture(
                *(
                    Markup(_picture(drawn, level, accounting, width, f"accuracy-{number}-{name}"))
                    for width, name in _SIZES
                )
            )
        sections.append((title, rows, picture))
    return render_template(
        "study.html",
        made=made,
        answer=conclusion(findings, accounting),
        sections=sections,
        domains=domain_columns(findings),
        pooled=pooled_rows(findings),
        reference=findings.reference,
        accounting=accounting,
        footnote=footnote(findings, accounting),
        picture_caption=(
            "Mean accuracy, with its 95 % interval, against the memory of a step "
            f"({accounting} accounting). A method that trains nothing is a dashed line; "
            "a hollow mark is outside the budget."
        ),
        failures=[
            f"{r['method']}, {r['model']}, {r['domain']} seed {r['seed']}: {r['reason']}"
            for r in findings.failures[:20]
        ],
        headline=[
            ("Tasks", ", ".join(sorted({str(row["episode"]) for row in findings.rows}))),
            *settings_rows(cells),
            *(
                ("Weights", f"{model}: {weights}")
                for model, weights in dict.fromkeys(
                    (row["model"], row["weights"]) for row in findings.rows if row["weights"]
                )
            ),
        ],
    )


def _point(line: Line, accounting: str) -> tuple[float, Mean] | None:
    """Where a line stands in the picture: bytes and mean accuracy; None if one is not known.

    A method that trains nothing keeps nothing: it has no place on a logarithmic axis.
    """
    memory, mean = line.costs[MEMORY[accounting]], line.accuracy[AVERAGE]
    if not memory or mean is None or not line.costs["backward_macs"]:
        return None
    return memory, mean


def _picture(
    lines: Sequence[Line], level: Sequence[Line], accounting: str, width: float, name: str
) -> str:
    """Methods by memory and accuracy; those of `level`, which take no memory, as lines across."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    wide = width > _SIZES[1][0]
    with drawing(width, 3.8) as figure:
        axes: Axes = figure.add_subplot()
        memories, spots = [], []
        for index, line in enumerate(lines):
            point = _point(line, accounting)
            assert point is not None
            memory, mean = point
            memories.append(memory)
            axes.errorbar(
                [memory],
                [100 * mean.value],
                None if mean.half is None else [100 * mean.half],
                fmt=MARKS[index // len(INKS) % len(MARKS)],
                color=COLOURS[INKS[index % len(INKS)]],
                markerfacecolor="none" if line.outside else None,
                markersize=5,
                elinewidth=1,
                capsize=2,
                label=marked(line),
            )
            spots.append(Spot(axes, memory, 100 * mean.value, _told(line, accounting)))
        across_all: list[tuple[float, Line]] = []
        for line in level:
            if (across := line.accuracy[AVERAGE]) is not None:
                across_all.append((100 * across.value, line))
                axes.axhline(
                    100 * across.value,
                    color=COLOURS["quiet"],
                    linewidth=1,
                    linestyle="--",
                    label=marked(line),
                )
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(LogLocator(base=2, numticks=8 if wide else 4))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_bytes(value)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        least, most = (pick(memories) for pick in (min, max))
        edges = (least / LEAST_ROOM, most * LEAST_ROOM)
        axes.set_xlim(*edges)
        spots = [
            *(Spot(axes, edges, (at, at), _told(line, accounting)) for at, line in across_all),
            *spots,
        ]
        axes.set_xlabel(f"memory ({accounting}), logarithmic")
        axes.set_ylabel("accuracy, %")
        axes.grid(color=COLOURS["band"], zorder=0)
        axes.set_axisbelow(True)
        handles = axes.get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=4 if wide else 2)
        best = max(lines, key=lambda line: (line.accuracy[AVERAGE] or Mean(0, None, 0)).value)
        return to_svg(
            figure,
            name,
            "Accuracy against memory",
            f"{counted(len(lines), 'method')}; the highest mean accuracy is that of {best.method}.",
            spots,
        )


def _told(line: Line, accounting: str) -> tuple[str, ...]:
    """What a method's mark says."""
    over = line.over_reference[AVERAGE]
    memory, macs, _, _ = cost_cells(line, accounting)
    lines = [
        marked(line),
        f"{percent(line.accuracy[AVERAGE])} % over {counted(line.tasks, 'task')}",
    ]
    if over is not None:
        lines.append(f"{percent(over, signed=True)} points over the reference")
    if line.costs["backward_macs"]:
        lines.append(f"{memory}, {macs}")
    if line.outside:
        lines.append("outside the budget")
    return tuple(lines)


_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
        "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    }
)  # fmt: skip


def study_latex(findings: MethodFindings, accounting: str = "peak") -> str:
    """The table for a paper, one `tabular` for each model and device; needs `booktabs`."""

    def text(value: str) -> str:
        return value.translate(_LATEX)

    def number(value: str) -> str:
        return "--" if value == "-" else text(value).replace(" ± ", r" $\pm$ ").replace("-", "$-$")

    parts = [f"% {text(footnote(findings, accounting))}"]
    for title, lines in groups(findings):
        columns = domain_columns(findings)
        best = {
            name: max((m.value for line in lines if (m := line.accuracy[name])), default=None)
            for name in columns
        }
        costs = [memory_heading(accounting), "MACs", "time", "energy"]
        headings = ["method", *columns, f"over {findings.reference}", *costs]
        parts += [
            f"% {text(title)}",
            rf"\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}",
            r"\toprule",
            " & ".join(map(text, headings)) + r" \\",
            r"\midrule",
        ]
        for line in lines:
            cells = [text(marked(line))]
            for name in columns:
                mean = line.accuracy[name]
                cell = number(percent(mean))
                is_best = mean is not None and mean.value == best[name]
                cells.append(rf"\textbf{{{cell}}}" if is_best else cell)
            own = line.method == findings.reference
            cells.append(
                "--" if own else number(percent(line.over_reference[AVERAGE], signed=True))
            )
            cells += [number(cell) for cell in cost_cells(line, accounting)]
            parts.append(" & ".join(cells) + r" \\")
        parts += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join(parts) + "\n"


def study_csv(findings: MethodFindings) -> str:
    """The rows as they are, one a cell; plans and predictions left out."""
    names = [name for name in COLUMNS if name not in ("plan", "predictions")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([row[name] for name in names] for row in findings.rows)
    return text.getvalue()
