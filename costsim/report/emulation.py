"""A step on an emulated core as one HTML file: planned against touched memory over time."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from costsim.base.files import write_atomically
from costsim.base.units import format_bytes, format_seconds
from costsim.hardware.results.emulated_step import EmulatedStep
from costsim.hardware.results.record import Comparison, Validation
from costsim.ir.program import memory_timeline
from costsim.report.axes import NARROW, WIDE, byte_axis
from costsim.report.html import Made, Picture, render_template
from costsim.report.spots import Spot
from costsim.report.svg import COLOURS, drawing, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_CATEGORY_COLOURS = {
    "input": "activation",
    "activation": "activation",
    "kept channels": "kept",
    "saved": "kept",
    "gradient": "gradient",
    "weight gradient": "dweights",
    "optimizer": "optimizer",
    "updated weights": "weights",
}


def write_emulation_page(
    path: Path, validation: Validation, step: EmulatedStep, made: Made | None = None
) -> None:
    """Write the page of `step` to `path`, whole or not at all."""
    write_atomically(path, render_emulation_page(validation, step, made))


def conclusion(validation: Validation, step: EmulatedStep) -> str:
    """Whether the step was what was predicted, and how much memory it took, in a sentence."""
    size, compared = format_bytes(step.observed.arena_bytes), len(validation.comparisons)
    if validation.ok:
        return (
            f"As predicted: the step ran inside its arena of {size}, and each of "
            f"{compared} comparisons is within its tolerance."
        )
    return (
        f"Not as predicted: {len(validation.outside)} of {compared} comparisons of the step, in "
        f"its arena of {size}, are outside their tolerance."
    )


def render_emulation_page(
    validation: Validation, step: EmulatedStep, made: Made | None = None
) -> str:
    """The page; it needs no script, no network and no other file."""
    pictures = {
        "live": (
            _picture(live_picture, step, "live"),
            "Bytes alive at each operation: the plan's as an area, and as a line what the accesses "
            "alone say: a buffer kept to the end and not read again, such as an updated weight, "
            "is found only until its last access. Below, the bytes that each operation touched.",
        ),
        "places": (
            _picture(places_picture, step, "places"),
            "The arena over the step: where buffers are planned, in pale colours, and what each "
            "operation wrote (dark) and read (grey). Colours say what a buffer is for.",
        ),
    }
    return render_template(
        "emulation.html",
        made=made,
        answer=conclusion(validation, step),
        filters={
            "predicted": lambda one: _amount(one, one.predicted),
            "measured": lambda one: _amount(one, one.measured),
            "seconds": format_seconds,
        },
        validation=validation,
        pictures=pictures,
        rows=list(validation.totals()),
        layers=step.by_layer,
    )


def _picture(
    draw: Callable[[EmulatedStep, str, float], str], step: EmulatedStep, name: str
) -> Picture:
    """For a desk and for a phone."""
    return Picture(
        Markup(draw(step, f"{name}-wide", WIDE)), Markup(draw(step, f"{name}-narrow", NARROW))
    )


def _amount(one: Comparison, value: float) -> str:
    if one.unit == "s":
        return format_seconds(value)
    return f"{value:.6g}" if one.unit == "1" else f"{int(value):,}"


def live_picture(step: EmulatedStep, name: str, width: float = WIDE) -> str:
    """Live bytes over the operations, planned and found; bytes touched by each."""
    planned = memory_timeline(step.program).total_bytes
    found, touched = step.liveness.live_bytes, step.liveness.touched_bytes
    edges = np.arange(len(planned) + 1)
    with drawing(width, 3.8) as figure:
        axes = figure.add_subplot()
        axes.stackplot(
            edges,
            [np.append(planned, planned[-1])],
            step="post",
            colors=[COLOURS["activation"]],
            labels=["planned to be alive"],
            linewidth=0,
        )
        axes.step(
            edges,
            np.append(found, found[-1]),
            where="post",
            color=COLOURS["ink"],
            linewidth=1.1,
            label="found alive",
        )
        axes.bar(
            edges[:-1] + 0.5,
            touched,
            width=0.8,
            color=COLOURS["kept"],
            linewidth=0,
            label="touched",
        )
        _axes(axes, step, int(planned.max()))
        axes.set_ylabel("bytes")
        figure.legend(loc="outside lower center", ncols=3 if width > NARROW else 1)
        differ = int((planned != found).sum())
        return to_svg(
            figure,
            name,
            "Planned and touched memory over one training step",
            f"Live bytes at each of {len(planned)} operations; planned and found differ at "
            f"{differ}. The planned peak is {format_bytes(int(planned.max()))}.",
            [
                Spot(
                    axes,
                    (index, index + 1),
                    None,
                    (
                        operation.name,
                        f"planned {format_bytes(int(planned[index]))}, "
                        f"found {format_bytes(int(found[index]))}",
                        f"touched {format_bytes(int(touched[index]))}",
                    ),
                )
                for index, operation in enumerate(step.program.operations)
            ],
        )


def places_picture(step: EmulatedStep, name: str, width: float = WIDE) -> str:
    """The arena's addresses over the operations: planned rectangles, and what was touched."""
    program, size = step.program, step.observed.arena_bytes
    with drawing(width, 4.6 if width > NARROW else 5.2) as figure:
        axes = figure.add_subplot()
        for index, (first, end) in step.planned_spans.items():
            buffer = program.buffers[index]
            axes.broken_barh(
                [(buffer.birth, buffer.death - buffer.birth + 1)],
                (first, end - first),
                facecolors=COLOURS[_CATEGORY_COLOURS[str(buffer.category)]],
                alpha=0.45,
                linewidth=0,
            )
        grain = max(1, size // 400)
        for runs, place, colour in (
            (step.observed.touched.read, 0.1, COLOURS["quiet"]),
            (step.observed.touched.written, 0.5, COLOURS["ink"]),
        ):
            for operation, spans in runs.items():
                for first, end in _merged(spans, grain):
                    axes.broken_barh(
                        [(operation + place, 0.4)],
                        (first, max(end - first, grain)),
                        facecolors=colour,
                        linewidth=0,
                    )
        _axes(axes, step, size)
        axes.set_ylabel("offset in the arena")
        used = {str(program.buffers[index].category) for index in step.planned_spans}
        _legend(figure, used, columns=4 if width > NARROW else 2)
        return to_svg(
            figure,
            name,
            "Where the arena is touched",
            f"{len(step.planned_spans)} buffers in {format_bytes(size)}, and the bytes that each "
            "operation wrote and read.",
            [_of_buffer(axes, step, *entry) for entry in step.planned_spans.items()],
        )


def _of_buffer(axes: "Axes", step: EmulatedStep, index: int, span: tuple[int, int]) -> Spot:
    """What the rectangle of a buffer says."""
    buffer, operations = step.program.buffers[index], step.program.operations
    return Spot(
        axes,
        (buffer.birth, buffer.death + 1),
        span,
        (
            f"{buffer.name}, {buffer.category}",
            f"{format_bytes(span[1] - span[0])} at offset {span[0]:,}",
            f"from {operations[buffer.birth].name} to {operations[buffer.death].name}",
        ),
    )


def _legend(figure: "Figure", categories: set[str], columns: int) -> None:
    """What each colour is for, those alone that the picture has; kinds of one colour together."""
    from matplotlib.patches import Patch

    by_colour: dict[str, list[str]] = {}
    for category, colour in _CATEGORY_COLOURS.items():
        if category in categories:
            by_colour.setdefault(colour, []).append(category)
    handles = [
        Patch(facecolor=COLOURS[colour], alpha=0.45, label=", ".join(names))
        for colour, names in by_colour.items()
    ]
    handles += [
        Patch(facecolor=COLOURS["ink"], label="written"),
        Patch(facecolor=COLOURS["quiet"], label="read"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)


def _merged(spans: tuple[tuple[int, int], ...], grain: int) -> list[tuple[int, int]]:
    """Runs with no gap smaller than can be seen."""
    found: list[tuple[int, int]] = []
    for first, end in sorted(spans):
        if found and first - found[-1][1] < grain:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((first, end))
    return found


def _axes(axes: "Axes", step: EmulatedStep, top: int) -> None:
    count, loss = len(step.program.operations), step.program.loss_position
    axes.set_xlim(0, count)
    axes.set_ylim(0, top * 1.05)
    axes.axvline(loss + 0.5, color=COLOURS["limit"], linewidth=0.8)
    axes.annotate(
        "loss",
        (loss + 0.5, 1.0),
        (0, 3),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="center",
        color=COLOURS["limit"],
    )
    axes.set_xticks([loss / 2, (loss + count) / 2])
    axes.set_xticklabels(["forward", "backward and updates"])
    byte_axis(axes, top)
