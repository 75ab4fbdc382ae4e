"""The pictures of a plan, each in two widths: for a desk and for a phone."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from costsim.importance import Importance
from costsim.program import Direction
from costsim.report.layers import GROUP_COLOURS, GROUPS
from costsim.report.summary import Summary
from costsim.report.svg import COLOURS, drawing, to_svg
from costsim.units import format_bytes, format_macs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE, NARROW = 9.2, 3.7
"""Inches; a picture is shown at about 90 pixels an inch on a desk and on a phone."""

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Draw = Callable[[float, str], str]

BYTE_STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
NICE_STEPS = (1, 2, 5)


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
        _byte_axis(axes, top)
        _phases(axes, summary, top)
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
        _legend(axes, width)
        operation = program.operations[position].name
        return to_svg(
            figure,
            name,
            "Memory over one training step",
            f"Live bytes at each of {len(total)} operations; the peak is {format_bytes(peak)} "
            f"at {operation}.",
        )


def _legend(axes: "Axes", width: float) -> None:
    """Below the picture, topmost area first."""
    handles, labels = axes.get_legend_handles_labels()
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.legend(
        handles[::-1],
        labels[::-1],
        loc="outside lower center",
        ncols=3 if width > NARROW else 2,
        columnspacing=1.2,
        handlelength=1.1,
        handleheight=0.9,
    )


def runs(flags: Sequence[bool]) -> list[tuple[int, int]]:
    """The stretches of true `flags` as (first, one past the last)."""
    edges = np.flatnonzero(np.diff(np.array([False, *flags, False], dtype=np.int8)))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


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


def _phases(axes: "Axes", summary: Summary, top: float) -> None:
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
    _set_ticks(axes, spaced(marks, room))


def spaced(marks: Sequence[tuple[int, str]], room: float) -> list[tuple[int, str]]:
    """As many of `marks` as leave `room` between any two, the first among them."""
    kept: list[tuple[int, str]] = []
    for position, label in marks:
        if not kept or position - kept[-1][0] >= room:
            kept.append((position, label))
    return kept


def _set_ticks(axes: "Axes", marks: Sequence[tuple[int, str]], rotation: float = 55) -> None:
    axes.set_xticks(
        [position + 0.5 for position, _ in marks],
        [shortened(label) for _, label in marks],
        rotation=rotation,
        ha="right",
        rotation_mode="anchor",
        fontsize=7.5,
    )


def shortened(name: str, length: int = 20) -> str:
    """A name that fits under a tick: its end says more than its beginning."""
    return name if len(name) <= length else f"…{name[1 - length :]}"


def _byte_axis(axes: "Axes", top: float) -> None:
    unit = 1024 ** max(0, int(math.log(max(top, 1), 1024)))
    step = next((unit * s for s in BYTE_STEPS if top / (unit * s) <= 5.5), unit * BYTE_STEPS[-1])
    if top / step < 3 and unit > 1:
        step /= 2 if top / step >= 1.5 else 4
    ticks = np.arange(0, top, step)
    axes.set_yticks(ticks, ["0" if not tick else format_bytes(tick) for tick in ticks])
    axes.yaxis.grid(True, color=COLOURS["line"], linewidth=0.5, zorder=0)
    axes.set_axisbelow(True)


def _mac_axis(axes: "Axes", top: float) -> None:
    magnitude = 10.0 ** math.floor(math.log10(max(top, 1) / 3))
    step = next((magnitude * s for s in NICE_STEPS if top / (magnitude * s) <= 4.5), magnitude * 10)
    ticks = np.arange(0, top, step)
    axes.set_yticks(ticks, ["0" if not tick else format_macs(tick) for tick in ticks])
    axes.yaxis.grid(True, color=COLOURS["line"], linewidth=0.5, zorder=0)
    axes.set_axisbelow(True)


def network_picture(summary: Summary, width: float, name: str) -> str:
    """The whole network in order: channels chosen of each layer, and its MACs by cause."""
    graph, file = summary.graph, summary.file
    macs = {entry.name: entry for entry in summary.macs}
    names = [call.layer or call.name for call in graph.calls]
    layers = [name for name in dict.fromkeys(names) if name in graph.layers or name in macs]
    inspected = {entry.name for entry in file.importance.layers}
    chosen = {row.name: row for row in summary.chosen}
    with drawing(width, 4.6 if width > NARROW else 5.0) as figure:
        shares, work = figure.subplots(2, 1, sharex=True, height_ratios=(2, 3))
        for start, end in runs([layer in inspected for layer in layers]):
            shares.axvspan(start, end, color=COLOURS["band"], linewidth=0, zorder=0)
        centres = np.arange(len(layers)) + 0.5
        heights = [
            len(chosen[layer].channels) / chosen[layer].size
            if layer in chosen and chosen[layer].size
            else 0.0
            for layer in layers
        ]
        shares.bar(centres, heights, 0.8, color=COLOURS["kept"], zorder=2)
        biases = [i for i, layer in enumerate(layers) if layer in file.plan.biases]
        if biases:
            shares.plot(
                centres[biases],
                np.full(len(biases), -0.08),
                linestyle="none",
                marker="s",
                markersize=3,
                color=COLOURS["dweights"],
                clip_on=False,
                label="bias updated",
            )
        shares.set_xlim(0, len(layers))
        shares.set_ylim(-0.16, 1)
        shares.set_yticks([0, 0.5, 1], ["0", "50 %", "100 %"])
        shares.yaxis.grid(True, color=COLOURS["line"], linewidth=0.5, zorder=1)
        shares.set_axisbelow(True)
        shares.set_ylabel("channels updated")
        bottom = np.zeros(len(layers))
        for cause, label, colour in (
            ("forward", "forward", "activation"),
            ("recompute", "computed again", "kept"),
            ("input_gradient", "input gradient", "gradient"),
            ("weight_gradient", "weight gradient", "dweights"),
        ):
            values = np.array(
                [getattr(macs[layer], cause) if layer in macs else 0 for layer in layers], float
            )
            if cause == "recompute" and not values.any():
                continue
            work.bar(
                centres,
                values,
                0.8,
                bottom,
                color=COLOURS[colour],
                label=label,
                linewidth=0,
                zorder=2,
            )
            bottom += values
        top = float(bottom.max(initial=0)) * 1.08 or 1.0
        work.set_ylim(0, top)
        _mac_axis(work, top)
        work.set_ylabel("MACs of a step")
        _legend(work, width)
        room = len(layers) / (26 if width > NARROW else 12)
        _set_ticks(work, spaced(list(enumerate(layers)), room))
        updated = sum(1 for height in heights if height)
        return to_svg(
            figure,
            name,
            "The layers of the network, first to last",
            f"{updated} of {len(layers)} layers have channels to update; below, the MACs of each "
            "layer by cause.",
        )


def channel_picture(
    summary: Summary, width: float, name: str, importance: Importance | None
) -> str:
    """The channels of each chosen layer, the chosen ones marked; with scores, as bars."""
    rows = [row for row in summary.chosen if row.size]
    with drawing(width, 0.45 + 0.42 * len(rows)) as figure:
        axes = figure.add_subplot()
        for index, row in enumerate(rows):
            heights = _relative_scores(importance, row.name, row.axis, row.size)
            mask = np.zeros(row.size, dtype=bool)
            mask[list(row.channels)] = True
            base = len(rows) - 1 - index
            for part, colour in ((~mask, "unchosen"), (mask, "kept")):
                channels, tops = np.flatnonzero(part), heights[part] * 0.82
                _bars(axes, channels, row.size, base, tops, colour, width)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, max(1, len(rows)))
        axes.set_xticks([])
        axes.set_yticks(
            [len(rows) - 1 - index + 0.4 for index in range(len(rows))],
            [f"{shortened(row.name)}\n{len(row.channels)} of {row.size}" for row in rows],
            fontsize=7.5,
        )
        axes.tick_params(left=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        return to_svg(
            figure,
            name,
            "The channels of each chosen layer",
            "One bar a channel in the layer's order, chosen channels coloured.",
        )


def _bars(
    axes: "Axes",
    channels: Integers,
    size: int,
    base: float,
    heights: Floats,
    colour: str,
    width: float,
) -> None:
    """One stroke a channel, all in one path: a tenth of the bytes of one shape each."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    if not len(channels):
        return
    across = (channels + 0.5) / size
    ends = np.stack([np.full(len(channels), float(base)), base + heights], axis=1)
    vertices = np.stack([np.repeat(across, 2), ends.ravel()], axis=1)
    codes = np.tile([Path.MOVETO, Path.LINETO], len(channels))
    # names of layers take about a fifth of the width
    points = width * 72 * 0.8 / size
    axes.add_artist(
        PathPatch(
            Path(vertices, codes),
            fill=False,
            edgecolor=COLOURS[colour],
            linewidth=min(points * 0.85, 12),
            capstyle="butt",
        )
    )


def _relative_scores(
    importance: Importance | None, layer: str, axis: str | None, size: int
) -> Floats:
    """Heights of the channels of a layer, from a little above 0 to 1; all 1 without scores."""
    if importance is None or axis not in importance.axes(layer):
        return np.ones(size)
    scores = importance.scores(layer, axis)
    top = scores.max(initial=0)
    # a square root lets the small scores be seen beside a few large ones
    return np.ones(size) if not top else np.maximum(0.04, np.sqrt(scores / top))
