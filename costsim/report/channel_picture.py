"""The channels of each chosen layer, with their scores."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from costsim.base.units import format_percent
from costsim.problem.importance import Importance
from costsim.report.axes import shortened
from costsim.report.spots import Spot
from costsim.report.summary import ChosenLayer, Summary
from costsim.report.svg import COLOURS, drawing, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


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
            [
                Spot(axes, (0.0, 1.0), (place, place + 0.82), _told(row))
                for place, row in zip(reversed(range(len(rows))), rows, strict=True)
            ],
        )


def _told(row: ChosenLayer) -> tuple[str, ...]:
    """What is chosen of a layer, and what that is worth."""
    lines = [row.name, f"{len(row.channels)} of {row.size} {row.axis} channels"]
    if row.gain_share is not None:
        lines.append(f"{format_percent(row.gain_share)} of all gain")
    return tuple(lines)


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
