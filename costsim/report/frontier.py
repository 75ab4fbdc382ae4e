"""A frontier for people and for other programs: a table, a CSV file, a picture."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from costsim.base.units import counted, format_bytes, format_macs, format_percent, format_seconds
from costsim.report.axes import NARROW, WIDE
from costsim.report.html import Made, Picture, render_template
from costsim.report.spots import Spot
from costsim.report.svg import COLOURS, STYLE, drawing, to_svg
from costsim.solving.pareto import Frontier, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOW: Mapping[str, Callable[[float], str]] = {
    "memory": format_bytes,
    "macs": format_macs,
    "latency": format_seconds,
}
SCALE: Mapping[str, tuple[float, str]] = {
    "memory": (1024.0, "memory of a step in KiB"),
    "macs": (1e6, "backward MACs of a step in millions"),
    "latency": (1e-3, "latency of a step in ms"),
}
NAMES: Mapping[str, str] = {"memory": "memory", "macs": "MACs", "latency": "latency"}
UNIT: Mapping[str, str] = {"memory": "bytes", "macs": "macs", "latency": "s"}
COLUMNS = (
    "kind", "label", "budget", "used", "unit", "gain", "share", "proven", "exceeds",
    "unscored_channels",
)  # fmt: skip


def all_points(frontier: Frontier) -> tuple[Point, ...]:
    """The frontier's own points and those beside it."""
    return (*frontier.points, *frontier.beside)


def shown_points(frontier: Frontier) -> tuple[Point, ...]:
    """The same, none of which twice: a solver that had more budget may have chosen as before."""
    found: dict[tuple[str, str, float, float], Point] = {}
    for point in all_points(frontier):
        found.setdefault((point.kind, point.label, point.used, point.gain), point)
    return tuple(found.values())


def render_frontier(console: Console, frontier: Frontier) -> None:
    """Print every point: what it takes, its share of the full gain, who chose it."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("chosen by", frontier.against, "gain", "layers", "channels", ""):
        right = heading not in ("chosen by", "")
        table.add_column(heading, justify="right" if right else "left", no_wrap=right)
    previous = None
    for point in shown_points(frontier):
        if previous is not None and point.kind != previous:
            table.add_section()
        previous = point.kind
        table.add_row(
            Text(f"{point.kind} {point.label}".strip()),
            SHOW[frontier.against](point.used),
            "-" if point.unscored else format_percent(point.share),
            f"{len({s.layer for s in point.plan.subsets} | point.plan.biases)}",
            f"{sum(len(s.channels) for s in point.plan.subsets):,}",
            Text(remark(point)),
        )
    console.print(table)


def remark(point: Point) -> str:
    """What a person must know of a point beside its numbers."""
    said = []
    if point.proven:
        said.append("proven")
    if point.exceeds:
        said.append(f"breaks the limit on {', '.join(map(_plainly, point.exceeds))}")
    if point.unscored:
        said.append(f"{point.unscored:,} channels without a score")
    return "; ".join(said)


def _plainly(limit: str) -> str:
    known = {"working_bytes": "the device's memory", "memory_bytes": "memory", "macs": "MACs"}
    return known.get(limit, limit.rpartition("_")[0] or limit)


def frontier_csv(frontier: Frontier) -> str:
    """One line a point, amounts in base units."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for point in all_points(frontier):
        writer.writerow(
            [
                point.kind,
                point.label,
                "" if point.budget is None else point.budget,
                point.used,
                UNIT[frontier.against],
                point.gain,
                point.share,
                "yes" if point.proven else "no",
                " ".join(point.exceeds),
                point.unscored,
            ]
        )
    return text.getvalue()


def frontier_picture(frontier: Frontier, title: str, file_format: str) -> bytes:
    """The frontier as a file of its own; `file_format` is svg or png."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    # a file of its own has no page behind it
    style = {**STYLE, "figure.facecolor": "white", "svg.hashsalt": "frontier"}
    with drawing(7.2, 4.4) as figure, mpl.rc_context(style):
        figure.set_facecolor("white")
        axes = figure.add_subplot()
        _draw(axes, frontier)
        axes.set_title(title, fontsize=9, loc="left")
        figure.legend(loc="outside lower left", ncols=2, fontsize=8)
        metadata = {"Date": None} if file_format == "svg" else {"Software": None}
        figure.savefig(buffer, format=file_format, dpi=144, metadata=metadata)
    return buffer.getvalue()


def frontier_svg(frontier: Frontier, name: str, width: float) -> str:
    """The same inside a page, `width` inches wide; `name` prefixes its ids."""
    with drawing(width, 4.0) as figure:
        axes = figure.add_subplot()
        _draw(axes, frontier)
        figure.legend(loc="outside lower center", ncols=2 if width > NARROW else 1)
        scale, _ = SCALE[frontier.against]
        spots = [
            Spot(axes, point.used / scale, 100 * point.share, _told(point, frontier.against))
            for point in shown_points(frontier)
            if not point.unscored
        ]
        told = conclusion(frontier)
        return to_svg(figure, name, f"Gain against {NAMES[frontier.against]}", told, spots)


def _told(point: Point, against: str) -> tuple[str, ...]:
    """What a point's mark says."""
    layers = len({s.layer for s in point.plan.subsets} | point.plan.biases)
    channels = sum(len(s.channels) for s in point.plan.subsets)
    lines = (
        f"{point.kind} {point.label}".strip(),
        f"{SHOW[against](point.used)}, {format_percent(point.share)} of all gain",
        f"{counted(channels, 'channel')} in {counted(layers, 'layer')}",
        remark(point),
    )
    return tuple(filter(None, lines))


def drawn_beside(frontier: Frontier) -> tuple[Point, ...]:
    """The points beside the frontier whose gain is known: others have no place in a picture."""
    return tuple(point for point in frontier.beside if not point.unscored)


def _draw(axes: "Axes", frontier: Frontier) -> None:
    """The frontier as steps, the points beside it as marks."""
    scale, label = SCALE[frontier.against]
    points, beside = frontier.points, drawn_beside(frontier)
    axes.step(
        [p.used / scale for p in points],
        [100 * p.share for p in points],
        where="post",
        color=COLOURS["kept"],
        marker="o" if len(points) <= 60 else None,
        markersize=4,
        linewidth=1.4,
        label=_label("frontier", points),
        zorder=3,
    )
    for kind, marker, colour in zip(
        dict.fromkeys(p.kind for p in beside),
        "^sDvPX*",
        ("dweights", "weights", "optimizer", "gradient", "quiet", "limit", "ink"),
        strict=False,
    ):
        group = [p for p in beside if p.kind == kind]
        axes.scatter(
            [p.used / scale for p in group],
            [100 * p.share for p in group],
            marker=marker,
            s=26,
            facecolors=["none" if point.exceeds else COLOURS[colour] for point in group],
            edgecolors=COLOURS[colour],
            label=_group_label(kind, group),
            zorder=4,
        )
        for point in group:
            if point.label:
                axes.annotate(
                    point.label,
                    (point.used / scale, 100 * point.share),
                    xytext=(5, 3),
                    textcoords="offset points",
                    fontsize=7,
                    color=COLOURS["quiet"],
                )
    axes.margins(x=0.08, y=0.1)
    axes.set_xlabel(label)
    axes.set_ylabel("gain, % of all inspected")
    axes.set_ylim(bottom=0)
    axes.grid(color=COLOURS["band"], zorder=0)
    axes.set_axisbelow(True)


def conclusion(frontier: Frontier) -> str:
    """What the most allows, what half of that takes, and what another way gets, in words."""
    if not frontier.points:
        return "No plan within the budgets gains anything."
    show = SHOW[frontier.against]
    most = max(frontier.points, key=lambda point: point.share)
    sure = ", proven" if most.proven else ""
    told = [f"{format_percent(most.share)} of all gain takes {show(most.used)}{sure}."]
    half = next(point for point in frontier.points if point.share >= most.share / 2)
    if half is not most:
        told.append(f"Half of that takes {show(half.used)}.")
    greedy = [point for point in drawn_beside(frontier) if point.kind == "greedy"]
    if greedy:
        best = max(greedy, key=lambda point: (not point.exceeds, point.share))
        outside = ", outside another limit" if best.exceeds else ""
        told.append(
            f"Greedy gets {format_percent(best.share)} at most, for {show(best.used)}{outside}."
        )
    return " ".join(told)


def render_frontier_page(
    frontier: Frontier,
    title: str,
    limits: str,
    notes: Sequence[str] = (),
    made: Made | None = None,
) -> str:
    """The page of a frontier: its conclusion, picture and points; the same input, the same bytes.

    `title` says of what it is, `limits` within what other budgets.
    """
    picture = None
    if frontier.points:
        picture = Picture(
            *(
                Markup(frontier_svg(frontier, f"frontier-{name}", width))
                for width, name in ((WIDE, "wide"), (NARROW, "narrow"))
            )
        )
    show = SHOW[frontier.against]
    return render_template(
        "frontier.html",
        made=made,
        answer=conclusion(frontier),
        headline=[("of", title), ("within", limits)],
        against=NAMES[frontier.against],
        picture=picture,
        undrawn=sum(bool(point.unscored) for point in frontier.beside),
        rows=[
            {
                "by": f"{point.kind} {point.label}".strip(),
                "used": show(point.used),
                "gain": "-" if point.unscored else format_percent(point.share),
                "layers": len({s.layer for s in point.plan.subsets} | point.plan.biases),
                "channels": f"{sum(len(s.channels) for s in point.plan.subsets):,}",
                "remark": remark(point),
            }
            for point in shown_points(frontier)
        ],
        notes=notes,
    )


def _label(what: str, points: Iterable[Point]) -> str:
    return f"{what}, proven at its points" if all(point.proven for point in points) else what


def _group_label(kind: str, group: Iterable[Point]) -> str:
    remarks = []
    if any(point.exceeds for point in group):
        remarks.append("hollow: breaks another limit")
    return kind + (f" ({'; '.join(remarks)})" if remarks else "")
