"""What the pictures of a plan share: two widths, for a desk and for a phone, ticks and a legend."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from costsim.base.units import format_bytes, format_macs
from costsim.report.svg import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import XAxis, YAxis

WIDE, NARROW = 9.2, 3.7
"""Inches; a picture is shown at about 90 pixels an inch on a desk and on a phone."""

BYTE_STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
NICE_STEPS = (1, 2, 5)
RATIO_STEPS = (1.05, 1.1, 1.25, 1.5, 2, 4, 16, 256)
"""Between the ticks of ratios, each as many times the one before."""

MOST_RATIOS = 3.5
"""Ticks on either side of 1."""


def legend(axes: "Axes", width: float) -> None:
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


def spaced(marks: Sequence[tuple[int, str]], room: float) -> list[tuple[int, str]]:
    """As many of `marks` as leave `room` between any two, the first among them."""
    kept: list[tuple[int, str]] = []
    for position, label in marks:
        if not kept or position - kept[-1][0] >= room:
            kept.append((position, label))
    return kept


def set_ticks(axes: "Axes", marks: Sequence[tuple[int, str]], rotation: float = 55) -> None:
    """Names under the axis, askew; `marks` are positions of bars and their names."""
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


def byte_axis(axes: "Axes", top: float) -> None:
    """Ticks at round amounts of bytes up to `top`, with lines across."""
    unit = 1024 ** max(0, int(math.log(max(top, 1), 1024)))
    step = next((unit * s for s in BYTE_STEPS if top / (unit * s) <= 5.5), unit * BYTE_STEPS[-1])
    if top / step < 3 and unit > 1:
        step /= 2 if top / step >= 1.5 else 4
    ticks = np.arange(0, top, step)
    axes.set_yticks(ticks, ["0" if not tick else format_bytes(tick) for tick in ticks])
    axes.yaxis.grid(True, color=COLOURS["line"], linewidth=0.5, zorder=0)
    axes.set_axisbelow(True)


def mac_axis(axes: "Axes", top: float) -> None:
    """Ticks at round amounts of MACs up to `top`, with lines across."""
    magnitude = 10.0 ** math.floor(math.log10(max(top, 1) / 3))
    step = next((magnitude * s for s in NICE_STEPS if top / (magnitude * s) <= 4.5), magnitude * 10)
    ticks = np.arange(0, top, step)
    axes.set_yticks(ticks, ["0" if not tick else format_macs(tick) for tick in ticks])
    axes.yaxis.grid(True, color=COLOURS["line"], linewidth=0.5, zorder=0)
    axes.set_axisbelow(True)


def ratio_ticks(most: float) -> list[float]:
    """A few round ratios between 1 / `most` and `most`, as far below 1 as above; at least three.

    For a logarithmic axis, where powers of two alone may leave 1 as the only tick. `most` is at
    least 1.05.
    """
    step = next(
        (step for step in RATIO_STEPS if math.log(most, step) <= MOST_RATIOS), RATIO_STEPS[-1]
    )
    times = max(1, math.floor(math.log(most, step) + 1e-9))
    return [float(step) ** power for power in range(-times, times + 1)]


def ratio_axis(axis: "XAxis | YAxis", most: float) -> None:
    """Such ticks on a logarithmic axis, told as `0.8×`."""
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

    ticks = ratio_ticks(most)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_ticklabels([f"{tick:.3g}×" for tick in ticks])
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
