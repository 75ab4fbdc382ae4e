"""Predicted against measured steps over time: a table, and a picture beside it."""

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from costsim.units import format_seconds

if TYPE_CHECKING:
    from costsim.calibration.refine import MeasuredStep

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 720, 300, 64, 40, 24
DRIFTED = 0.1
"""A median ratio this far from 1 means that a new calibration is due."""


def render_drift(console: Console, steps: Sequence["MeasuredStep"]) -> None:
    """The steps in order of time, each measured beside predicted, and what they come to."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("when", "target", "model", "predicted", "measured", "ratio", ""):
        right = heading in ("predicted", "measured", "ratio")
        table.add_column(
            heading, justify="right" if right else "left", no_wrap=heading in ("when", "ratio")
        )
    for step in steps:
        table.add_row(
            step.when[:16].replace("T", " "),
            escape(step.target),
            escape(step.model),
            _range(step),
            format_seconds(step.measured_s),
            f"{step.ratio:.2f}",
            "" if step.holds else "outside",
        )
    console.print(table)
    console.print(sentence(steps), markup=False, highlight=False)


def sentence(steps: Sequence["MeasuredStep"]) -> str:
    """How far off the predictions are now, in words."""
    ratios = [step.ratio for step in steps]
    inside = sum(step.holds for step in steps)
    told = (
        f"{len(steps)} measured steps: median ratio {statistics.median(ratios):.2f}, "
        f"{inside} within the predicted interval."
    )
    if len(steps) >= 4:
        half = len(steps) // 2
        before, after = statistics.median(ratios[:half]), statistics.median(ratios[half:])
        told += f" The earlier half has {before:.2f}, the later half {after:.2f}."
    if abs(statistics.median(ratios) - 1) > DRIFTED:
        told += " Calibrate again, or refine the spec with these measurements."
    return told


def _range(step: "MeasuredStep") -> str:
    p = step.predicted
    return f"{format_seconds(p.value)} ({format_seconds(p.low)} to {format_seconds(p.high)})"


def drift_svg(steps: Sequence["MeasuredStep"]) -> str:
    """Measured over predicted, one mark a step in order of time, in its predicted interval.

    The scale is logarithmic, so that twice and half are as far from 1.
    """
    spans = [
        (math.log2(step.predicted.low / step.predicted.value),
         math.log2(step.predicted.high / step.predicted.value))
        for step in steps
    ]  # fmt: skip
    marks = [math.log2(step.ratio) for step in steps]
    most = max(0.25, *(abs(end) for span in spans for end in span), *map(abs, marks)) * 1.1

    def x(number: int) -> float:
        return LEFT + (WIDTH - LEFT - 16) * (number + 0.5) / len(steps)

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (most - value) / (2 * most)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12" role="img" '
        'aria-label="Measured over predicted step time, in order of time">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    ticks = [value for value in (-3, -2, -1, -0.5, 0, 0.5, 1, 2, 3) if abs(value) <= most]
    for value in ticks:
        color = "#555" if value == 0 else "#ddd"
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - 16}" y1="{y(value):.1f}" y2="{y(value):.1f}" '
            f'stroke="{color}"/>'
            f'<text x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{2**value:.2g}×</text>'
        )
    for number, (step, (low, high), mark) in enumerate(zip(steps, spans, marks, strict=True)):
        color = "#2b6cb0" if step.holds else "#c53030"
        title = f"{step.when}: {step.model} on {step.target}, {step.ratio:.2f} of predicted"
        parts.append(
            f"<g><title>{_escaped(title)}</title>"
            f'<line x1="{x(number):.1f}" x2="{x(number):.1f}" y1="{y(high):.1f}" '
            f'y2="{y(low):.1f}" stroke="#bbb" stroke-width="6"/>'
            f'<circle cx="{x(number):.1f}" cy="{y(mark):.1f}" r="4" fill="{color}"/></g>'
        )
    parts.append(
        f'<text x="{LEFT}" y="16">measured over predicted, grey: predicted interval</text>'
        f'<text x="{LEFT}" y="{HEIGHT - 12}">{_escaped(steps[0].when)}</text>'
        f'<text x="{WIDTH - 16}" y="{HEIGHT - 12}" text-anchor="end">'
        f"{_escaped(steps[-1].when)}</text></svg>"
    )
    return "\n".join(parts) + "\n"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
