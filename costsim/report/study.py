"""The page of a study of methods."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from costsim.base.intervals import Mean
from costsim.base.units import (
    counted,
    format_bytes,
)
from costsim.report.html import Made, Picture, render_template
from costsim.report.spots import Spot
from costsim.report.study_table import (
    MEMORY,
    cost_cells,
    domain_columns,
    footnote,
    groups,
    marked,
    percent,
    pooled_rows,
)
from costsim.report.study_words import conclusion, settings_rows
from costsim.report.svg import COLOURS, drawing, to_svg
from costsim.studies.methods.analysis import AVERAGE, Line, MethodFindings
from costsim.studies.methods.cells import MethodCell

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INKS = ("kept", "dweights", "weights", "optimizer", "gradient", "limit", "quiet")
MARKS = "osD^vPX"
LEAST_ROOM = 2.1
"""Times the least and the most memory, so that a single method has an axis with two ticks."""

_SIZES = ((9.2, "wide"), (3.7, "narrow"))


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
