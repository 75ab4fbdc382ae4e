"""The memory of a step over its operations, by what it is for."""

from typing import TYPE_CHECKING

import numpy as np

from costsim.base.units import format_bytes
from costsim.ir.program import Direction
from costsim.report.axes import NARROW, byte_axis, legend, set_ticks, spaced
from costsim.report.layers import GROUP_COLOURS, GROUPS
from costsim.report.spots import Spot
from costsim.report.summary import Summary
from costsim.report.svg import COLOURS, drawing, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def memory_timeline_picture(summary: Summary, width: float, name: str) -> str:
    """Live bytes over the operations of a step, by what they are for."""
    program, groups = summary.program, summary.live_bytes
    total = np.sum(list(groups.values()), axis=0)
    peak, position = int(total.max()), int(total.argmax())
    limit = timeline_limit(summary)
    drawn_limit = limit is not None and limit[1] <= 2.5 * peak
    top = max(peak * 1.22, limit[1] * 1.1 if limit and drawn_limit else 0) or 1
    with drawing(width, 4.1 if width > NARROW else 4.6) as figure:
        axes = figure.add_subplot()
        edges = np.arange(len(total) + 1)
        used = [group for group in GROUPS if groups[group].any()]
        axes.stackplot(
            edges,
            [np.append(groups[group], groups[group][-1]) for group in used],
            step="post",
            colors=[COLOURS[GROUP_COLOURS[group]] for group in used],
            labels=used,
            linewidth=0,
        )
        axes.set_xlim(0, len(total))
        axes.set_ylim(0, top)
        byte_axis(axes, top)
        _phases(axes, summary)
        _layer_ticks(axes, summary, width)
        if limit is not None and drawn_limit:
            axes.axhline(limit[1], color=COLOURS["limit"], linewidth=1.2, linestyle=(0, (5, 3)))
            left = position > len(total) / 2
            axes.annotate(
                f"{limit[0]} {format_bytes(limit[1])}",
                (0.0 if left else 1.0, limit[1]),
                (4 if left else -4, 3),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                ha="left" if left else "right",
                va="bottom",
                color=COLOURS["limit"],
            )
        _annotate_peak(axes, position, peak, len(total))
        axes.set_ylabel("live bytes")
        legend(axes, width)
        operation = program.operations[position].name
        return to_svg(
            figure,
            name,
            "Memory over one training step",
            f"Live bytes at each of {len(total)} operations; the peak is {format_bytes(peak)} "
            f"at {operation}.",
            _spots(axes, summary),
        )


def _spots(axes: "Axes", summary: Summary) -> list[Spot]:
    """What is live at each operation, by what it is for."""
    groups = summary.live_bytes
    total = np.sum(list(groups.values()), axis=0)
    found = []
    for index, operation in enumerate(summary.program.operations):
        live = [
            f"{group} {format_bytes(int(groups[group][index]))}"
            for group in GROUPS
            if groups[group][index]
        ]
        told = (f"{operation.name}: {format_bytes(int(total[index]))}", *live)
        found.append(Spot(axes, (index, index + 1), (0.0, float(total[index])), told))
    return found


def timeline_limit(summary: Summary) -> tuple[str, int] | None:
    """The tighter limit that the peak is held against, with its name; None if there is none."""
    budget = summary.file.budget
    limits = []
    if budget.memory_bytes is not None and budget.accounting == "peak":
        limits.append(("budget", budget.memory_bytes))
    if budget.working_bytes is not None:
        limits.append(("room on the device", budget.working_bytes))
    return min(limits, key=lambda limit: limit[1], default=None)


def _annotate_peak(axes: "Axes", position: int, peak: int, steps: int) -> None:
    right = position > steps / 2
    axes.plot([position + 0.5], [peak], "o", color=COLOURS["ink"], markersize=4, clip_on=False)
    axes.annotate(
        f"peak {format_bytes(peak)}",
        (position + 0.5, peak),
        (-7 if right else 7, 4),
        textcoords="offset points",
        ha="right" if right else "left",
        va="bottom",
        fontweight="bold",
    )


def _phases(axes: "Axes", summary: Summary) -> None:
    """Forward, backward and update as bands with their names above."""
    for index, (start, end, label) in enumerate(phases(summary)):
        if index % 2:
            axes.axvspan(start, end, color=COLOURS["band"], zorder=0, linewidth=0)
        if start:
            axes.axvline(start, color=COLOURS["line"], linewidth=0.8, zorder=0)
        axes.annotate(
            label,
            ((start + end) / 2, 1.0),
            (0, 4),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            va="bottom",
            color=COLOURS["quiet"],
        )


def phases(summary: Summary) -> list[tuple[int, int, str]]:
    """The phases of a step as (first operation, one past the last, name)."""
    operations = summary.program.operations
    loss, count = summary.program.loss_position, len(operations)
    updates = [i for i, op in enumerate(operations) if op.direction is Direction.UPDATE]
    trailing = count
    while trailing - 1 in updates:
        trailing -= 1
    parts = [(0, loss, "forward")]
    if updates and updates[0] < trailing:
        return [*parts, (loss, count, "backward and update")]
    if loss + 1 < count:
        parts.append((loss, trailing, "backward"))
    if trailing < count:
        # a couple of updates at the end are no phase to be seen
        if (count - trailing) < 0.12 * count:
            parts[-1] = (loss, count, "backward and update")
        else:
            parts.append((trailing, count, "update"))
    return parts


def _layer_ticks(axes: "Axes", summary: Summary, width: float) -> None:
    """Names of layers under their first operation in each phase, as many as are legible."""
    marks: list[tuple[int, str]] = []
    seen: set[tuple[str, bool]] = set()
    for position, operation in enumerate(summary.program.operations):
        layer = summary.graph[operation.call].layer if operation.call else None
        backward = position > summary.program.loss_position
        if layer is None or (layer, backward) in seen:
            continue
        seen.add((layer, backward))
        marks.append((position, layer))
    room = len(summary.program.operations) / (24 if width > NARROW else 11)
    set_ticks(axes, spaced(marks, room))
