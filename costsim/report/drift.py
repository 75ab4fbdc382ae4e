"""Predicted against measured steps over time: a table, a picture, and a page with both."""

import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from costsim.base.errors import InputError
from costsim.base.files import write_atomically
from costsim.base.units import format_seconds
from costsim.hardware.results.comparison import NOT_JUDGED
from costsim.report.axes import WIDE, ratio_axis
from costsim.report.spots import Spot
from costsim.report.svg import COLOURS, drawing, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from costsim.hardware.calibration.refinement import MeasuredStep
    from costsim.report.html import Made

NARROW, PANEL = 4.4, 2.1
"""Inches: a telephone, and the height that each target takes."""
LEAST_RANGE = 1.25
DAY_S = 86400.0
"""Dates are drawn as days since 1970."""
LEAST_DAYS = 1.0
"""That the axis of time shows, so that one measurement stands in its day."""

RECENT = 5
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
            _moment(step),
            escape(step.target),
            escape(step.model),
            _range(step),
            format_seconds(step.measured_s),
            "-" if step.unlike else f"{step.ratio:.2f}",
            _verdict(step),
        )
    console.print(table)
    console.print(sentence(steps), markup=False, highlight=False)


def _verdict(step: "MeasuredStep") -> str:
    """A word where a step is not as predicted, or ran elsewhere than predicted for."""
    return "not judged" if step.unlike else "" if step.holds else "outside"


def judged(steps: Sequence["MeasuredStep"]) -> list["MeasuredStep"]:
    """Those that ran on the device they were predicted for, as far as anything shows."""
    return [step for step in steps if not step.unlike]


def sentence(steps: Sequence["MeasuredStep"]) -> str:
    """How far off the predictions are now, in words: of steps on the device they are for."""
    every, steps = steps, judged(steps)
    told = [_told(steps)] if steps else []
    reasons = Counter(step.unlike for step in every if step.unlike)
    told += [
        f"{_steps(count)} on another machine than predicted for ({why}): {NOT_JUDGED}."
        for why, count in reasons.items()
    ]
    if not steps:
        return " ".join(told)
    targets = list(dict.fromkeys(step.target for step in steps))
    if len(targets) > 1:
        told += [
            f"{target}: {_told([step for step in steps if step.target == target])}"
            for target in targets
        ]
    if abs(_lately(steps) - 1) > DRIFTED:
        told.append("Calibrate again, or refine the spec with these measurements.")
    return " ".join(told)


def _steps(count: int) -> str:
    return f"{count} measured step{'s' * (count != 1)}"


def _told(steps: Sequence["MeasuredStep"]) -> str:
    ratios = [step.ratio for step in steps]
    inside = sum(step.holds for step in steps)
    told = (
        f"{_steps(len(steps))}: median ratio {statistics.median(ratios):.2f}, "
        f"{inside} within the predicted interval."
    )
    if len(steps) >= 4:
        half = len(steps) // 2
        before, after = statistics.median(ratios[:half]), statistics.median(ratios[half:])
        told += f" The earlier half has {before:.2f}, the later half {after:.2f}."
    return told


def _lately(steps: Sequence["MeasuredStep"]) -> float:
    """The median ratio of late steps, of the target where it is furthest from 1."""
    by_target: dict[str, list[float]] = {}
    for step in steps:
        by_target.setdefault(step.target, []).append(step.ratio)
    medians = [
        statistics.median(ratios[len(ratios) // 2 :] if len(ratios) >= 4 else ratios)
        for ratios in by_target.values()
    ]
    return max(medians, key=lambda ratio: max(ratio, 1 / ratio))


def _range(step: "MeasuredStep") -> str:
    p = step.predicted
    return f"{format_seconds(p.value)} ({format_seconds(p.low)} to {format_seconds(p.high)})"


def write_drift_page(
    path: Path, steps: Sequence["MeasuredStep"], made: "Made | None" = None
) -> None:
    """Write the steps as one HTML file, whole or not at all."""
    write_atomically(path, render_drift_page(steps, made))


def render_drift_page(steps: Sequence["MeasuredStep"], made: "Made | None" = None) -> str:
    """The page; it needs no script, no network and no other file."""
    from markupsafe import Markup

    from costsim.report.html import Picture, render_template

    picture = None
    if judged(steps):
        wide, narrow = (
            Markup(drift_svg(steps, f"drift-{name}", width))
            for name, width in (("wide", WIDE), ("narrow", NARROW))
        )
        picture = Picture(wide, narrow)
    return render_template(
        "drift.html",
        made=made,
        filters={
            "seconds": format_seconds,
            "moment": _moment,
            "range": _range,
            "verdict": _verdict,
        },
        steps=steps,
        sentence=sentence(steps),
        picture=picture,
    )


def drift_svg(steps: Sequence["MeasuredStep"], name: str = "drift", width: float = WIDE) -> str:
    """Measured over predicted over time, a panel a target, each mark in its predicted interval.

    The scale is logarithmic, so that twice and half are as far from 1; the line is the median of
    the last `RECENT` steps. `name` prefixes the ids of the picture, `width` is in inches. Steps on
    another machine than they were predicted for are left out; raises `InputError` if all are.
    """
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    every, steps = steps, judged(steps)
    if not steps:
        raise InputError(f"--picture: nothing to draw: {sentence(every)}")
    targets = list(dict.fromkeys(step.target for step in steps))
    most = 1.15 * max(
        max(*(max(ratio, 1 / ratio) for ratio in _ends(step)), LEAST_RANGE) for step in steps
    )
    with drawing(width, 0.7 + PANEL * len(targets)) as figure:
        panels = figure.subplots(len(targets), 1, sharex=True, squeeze=False)[:, 0]
        for target, axes in zip(targets, panels, strict=True):
            _panel(axes, [step for step in steps if step.target == target])
            axes.set_title(target, loc="left", fontsize=9, color=COLOURS["ink"])
            axes.set_yscale("log", base=2)
            axes.set_ylim(1 / most, most)
            ratio_axis(axes.yaxis, most)
            axes.axhline(1, color=COLOURS["quiet"], linewidth=0.8, zorder=0)
            axes.set_ylabel("measured / predicted, log.", fontsize=8)
        last = panels[-1]
        first, end = (pick(step.time.timestamp() / DAY_S for step in steps) for pick in (min, max))
        around = max((end - first) * 0.05, LEAST_DAYS / 2 if end - first < LEAST_DAYS else 0)
        last.set_xlim(first - around, end + around)
        last.xaxis.axis_date()
        locator = AutoDateLocator(  # type: ignore[no-untyped-call]
            minticks=2, maxticks=9 if width > NARROW else 4
        )
        last.xaxis.set_major_locator(locator)
        last.xaxis.set_major_formatter(
            ConciseDateFormatter(locator)  # type: ignore[no-untyped-call]
        )
        last.legend(
            loc="upper center", ncols=2, bbox_to_anchor=(0.5, -0.25), handletextpad=0.4, fontsize=8
        )
        spots = [
            Spot(axes, step.time.timestamp() / DAY_S, step.ratio, _told_of(step))
            for target, axes in zip(targets, panels, strict=True)
            for step in steps
            if step.target == target
        ]
        return to_svg(figure, name, "Measured over predicted step time", sentence(every), spots)


def _told_of(step: "MeasuredStep") -> tuple[str, ...]:
    """What a step's mark says."""
    return (
        f"{step.model}, {_moment(step)}",
        f"measured {format_seconds(step.measured_s)}, {step.ratio:.2f} of predicted",
        f"predicted {_range(step)}",
    )


def _ends(step: "MeasuredStep") -> tuple[float, float, float]:
    value = step.predicted.value
    return step.ratio, step.predicted.low / value, step.predicted.high / value


def _panel(axes: "Axes", steps: Sequence["MeasuredStep"]) -> None:
    """The steps of one target, in order of time."""
    times = [step.time.timestamp() / DAY_S for step in steps]
    ratios = [step.ratio for step in steps]
    _, lows, highs = zip(*map(_ends, steps), strict=True)
    axes.vlines(
        times, lows, highs, color=COLOURS["line"], linewidth=3, label="predicted to lie within"
    )
    recent = [
        statistics.median(ratios[max(0, end - RECENT) : end]) for end in range(1, len(ratios) + 1)
    ]
    axes.plot(
        times, recent, color=COLOURS["quiet"], linewidth=1, label=f"median of the last {RECENT}"
    )
    for holds, marker, colour, told in (
        (True, "o", "kept", "measured, within"),
        (False, "X", "limit", "measured, outside"),
    ):
        shown = [index for index, step in enumerate(steps) if step.holds is holds]
        axes.scatter(
            [times[index] for index in shown],
            [ratios[index] for index in shown],
            s=28,
            marker=marker,
            color=COLOURS[colour],
            linewidths=0,
            zorder=3,
            label=told,
        )


def _moment(step: "MeasuredStep") -> str:
    return f"{step.time:%Y-%m-%d %H:%M}"
