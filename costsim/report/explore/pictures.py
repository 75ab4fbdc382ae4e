"""Pictures that are drawn while one drags: shapes alone, in per mille of their box.

What stands beside them is text of the page, so that they fit a phone and a wall, and take a
millisecond where matplotlib takes hundreds. Numbers are those that the plan's page draws.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from costsim.base.units import format_bytes, format_percent
from costsim.report.layers import GROUP_COLOURS, GROUPS
from costsim.report.summary import Summary
from costsim.report.timeline_picture import phases, timeline_limit
from costsim.solving.pareto import Frontier

SIDE = 1000
"""Of the box that everything is drawn in."""

MOST_TICKS = 5
CLEAR = 5.0
"""Percent at either end where a text below would stand out of the box."""


def round_bytes(left: float, right: float) -> list[int]:
    """A few amounts between two, apart by a power of two."""
    step = 2 ** max(0, math.ceil(math.log2(max(1.0, (right - left) / MOST_TICKS))))
    first = int(left // step) + 1
    return [step * times for times in range(first, math.ceil(right / step))]


def round_shares(top: float) -> list[float]:
    """A few shares below `top`, apart by 1, 2 or 5 times a power of ten."""
    ten = 10.0 ** math.floor(math.log10(top / MOST_TICKS))
    step = next(times * ten for times in (1, 2, 5, 10) if top / (times * ten) <= MOST_TICKS)
    return [step * times for times in range(1, math.ceil(top / step))]


@dataclass(frozen=True)
class Area:
    """One coloured area of a stack: its name, the name of its colour, its outline."""

    label: str
    colour: str
    path: str


@dataclass(frozen=True)
class Mark:
    """A text at a place of the box, in percent from the left and the bottom."""

    text: str
    left: float
    bottom: float


@dataclass(frozen=True)
class Timeline:
    """Live bytes over the operations of a step; `limit` is a line across, where it is in sight."""

    areas: tuple[Area, ...]
    peak: Mark
    limit: Mark | None
    phases: tuple[Mark, ...]
    ticks: tuple[Mark, ...]
    told: str


def timeline(summary: Summary) -> Timeline:
    """The memory of a step, as `memory_timeline_picture` draws it."""
    groups = summary.live_bytes
    total = np.sum([groups[group] for group in GROUPS], axis=0)
    peak, position, count = int(total.max()), int(total.argmax()), len(total)
    limit = timeline_limit(summary)
    in_sight = limit is not None and limit[1] <= 2.5 * peak
    top = float(max(peak * 1.15, limit[1] * 1.1 if limit and in_sight else 0) or 1)
    areas, below = [], np.zeros(count)
    for group in GROUPS:
        above = below + groups[group]
        if groups[group].any():
            areas.append(Area(group, GROUP_COLOURS[group], _band(below, above, top)))
        below = above
    operation = summary.program.operations[position].name
    at_peak = ", ".join(
        f"{group} {format_bytes(int(groups[group][position]))}"
        for group in GROUPS
        if groups[group][position]
    )
    return Timeline(
        tuple(areas),
        Mark(f"peak {format_bytes(peak)}", 100 * (position + 0.5) / count, 100 * peak / top),
        Mark(f"{limit[0]} {format_bytes(limit[1])}", 0, 100 * limit[1] / top)
        if limit is not None and in_sight
        else None,
        tuple(
            Mark(label, 100 * (start + end) / 2 / count, 100)
            for start, end, label in phases(summary)
        ),
        tuple(Mark(format_bytes(amount), 0, 100 * amount / top) for amount in round_bytes(0, top)),
        f"Live bytes at each of {count} operations: the peak is {format_bytes(peak)} at "
        f"{operation}: {at_peak}.",
    )


def _band(below: NDArray[np.float64], above: NDArray[np.float64], top: float) -> str:
    """The outline between two lines of steps, one step an operation."""
    across = np.repeat(np.arange(len(above) + 1) * SIDE / len(above), 2)[1:-1]
    upper, lower = (np.repeat(SIDE * (1 - line / top), 2) for line in (above, below))
    there = _points(across, upper)
    back = _points(across[::-1], lower[::-1])
    return f"M{there}L{back}Z"


def _points(across: NDArray[np.float64], down: NDArray[np.float64]) -> str:
    """Corners of a line, those left out that lie on a level with both their neighbours."""
    level = np.round(down, 1)
    turns = np.ones(len(level), dtype=bool)
    turns[1:-1] = (level[1:-1] != level[:-2]) | (level[1:-1] != level[2:])
    pairs = zip(np.round(across[turns], 1).tolist(), level[turns].tolist(), strict=True)
    return "L".join(f"{x:g} {y:g}" for x, y in pairs)


@dataclass(frozen=True)
class Bar:
    """One layer: how much of its box is filled, in per mille, and what a pointer is told."""

    name: str
    left: float
    width: float
    height: float
    inspected: bool
    bias: bool
    told: str


def network(summary: Summary) -> tuple[Bar, ...]:
    """A bar a layer, first to last: the share of its channels that is updated."""
    graph = summary.graph
    names = [call.layer for call in graph.calls if call.layer in graph.layers]
    layers = [name for name in dict.fromkeys(names) if name is not None]
    chosen = {row.name: row for row in summary.chosen}
    inspected = {entry.name for entry in summary.file.importance.layers}
    found, width = [], SIDE / max(1, len(layers))
    for index, name in enumerate(layers):
        row = chosen.get(name)
        told, share = "not inspected", 0.0
        if name in inspected:
            told = "not updated"
        if row is not None:
            share = len(row.channels) / row.size if row.size else 0.0
            told = f"{len(row.channels)} of {row.size} {row.axis} channels" if row.axis else ""
            told = " and ".join(filter(None, (told, "its bias" if row.bias else "")))
            if row.gain_share is not None:
                told += f", {format_percent(row.gain_share)} of all gain"
        bias = row is not None and row.bias
        bar = Bar(name, index * width, width, SIDE * share, name in inspected, bias, told)
        found.append(bar)
    return tuple(found)


@dataclass(frozen=True)
class Curve:
    """Gain against memory: the proven line, and where the present plan stands on it or below."""

    path: str
    here: Mark | None
    across: tuple[Mark, ...]
    up: tuple[Mark, ...]
    told: str


def curve(frontier: Frontier, used: float | None, share: float | None) -> Curve:
    """The frontier, with a plan that uses so much and has this share of all gain."""
    points = frontier.points
    right = max([p.used for p in points] + ([used] if used is not None else []), default=0) or 1
    left = min([p.used for p in points] + ([used] if used is not None else []), default=0)
    right += 0.04 * (right - left or right)
    left -= 0.04 * (right - left)
    top = 1.1 * max([p.share for p in points] + [share or 0.0], default=0) or 1.0

    def place(amount: float, gain: float) -> tuple[float, float]:
        return (amount - left) / (right - left), gain / top

    here = None
    if used is not None and share is not None:
        x, y = place(used, share)
        here = Mark(f"{format_bytes(used)}, {format_percent(share)}", 100 * x, 100 * y)
    return Curve(
        _steps([place(point.used, point.share) for point in points]),
        here,
        tuple(
            Mark(format_bytes(amount), percent, 0)
            for amount in round_bytes(left, right)
            if CLEAR < (percent := 100 * (amount - left) / (right - left)) < 100 - CLEAR
        ),
        tuple(Mark(format_percent(amount), 0, 100 * amount / top) for amount in round_shares(top)),
        f"{len(points)} proven plans, from {format_bytes(points[0].used)} for "
        f"{format_percent(points[0].share)} of all gain to {format_bytes(points[-1].used)} for "
        f"{format_percent(points[-1].share)}."
        if points
        else "No plan within the other budgets gains anything.",
    )


def _steps(places: Sequence[tuple[float, float]]) -> str:
    """A line that rises at each place and is level between, to the right edge."""
    if not places:
        return ""
    x, y = places[0]
    told = f"M{SIDE * x:.1f} {SIDE}V{SIDE * (1 - y):.1f}"
    for x, y in places[1:]:
        told += f"H{SIDE * x:.1f}V{SIDE * (1 - y):.1f}"
    return f"{told}H{SIDE}"
