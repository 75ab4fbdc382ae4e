"""What `costsim measure` found as a page: predicted beside measured, target by target."""

from collections.abc import Sequence

from markupsafe import Markup

from costsim.base.units import counted, format_percent
from costsim.hardware.results.measurement_file import Beside, MeasurementFile
from costsim.report.axes import NARROW, WIDE, ratio_axis
from costsim.report.html import Made, Picture, render_template
from costsim.report.measurements import amount, notes_of
from costsim.report.spots import Spot
from costsim.report.svg import COLOURS, drawing, to_svg


def conclusion(found: MeasurementFile) -> str:
    """How many of the judged quantities are as predicted, and how long a step took, in words."""
    rows = found.comparisons()
    if not rows:
        return "Nothing was measured."
    judged = [row for row in rows if row.holds is not None]
    inside = sum(row.holds is True for row in judged)
    told = []
    if judged:
        told.append(f"{inside} of {counted(len(judged), 'quantity', 'quantities')} as predicted.")
    for step in (row for row in rows if row.quantity == "step"):
        predicted = "" if step.predicted is None else f", predicted {amount(step, step.predicted)}"
        not_judged = ", on another machine than predicted for" if step.holds is None else ""
        where = f" on {step.target}"
        told.append(f"A step took {amount(step, step.measured)}{where}{predicted}{not_judged}.")
    return " ".join(told) or "Nothing could be judged."


def render_measurement_page(found: MeasurementFile, made: Made | None = None) -> str:
    """The page; the same measurements give the same bytes."""
    rows = found.comparisons()
    drawn = [row for row in rows if row.ratio is not None]
    picture = None
    if drawn:
        picture = Picture(
            *(
                Markup(_picture(drawn, f"measured-{name}", width))
                for width, name in ((WIDE, "wide"), (NARROW, "narrow"))
            )
        )
    machines = dict.fromkeys(
        (run.outcome.target, run.outcome.measurement.machine.cpu)
        for run in found.runs
        if run.outcome.measurement is not None
    )
    return render_template(
        "measurement.html",
        made=made,
        filters={"percent": format_percent},
        model=found.plan["model"]["name"],
        answer=conclusion(found),
        headline=[
            ("predicted for", found.predicted.device or "no device"),
            *((target, cpu) for target, cpu in machines),
        ],
        picture=picture,
        rows=rows,
        amount=amount,
        notes=notes_of(found),
    )


def _picture(rows: Sequence[Beside], name: str, width: float) -> str:
    """Each quantity's measured over predicted on a logarithmic axis, in its predicted interval."""
    labels = [f"{row.quantity}, {row.target}" for row in rows]
    with drawing(width, 1.3 + 0.32 * len(rows)) as figure:
        axes = figure.add_subplot()
        ratios = [row.ratio or 1.0 for row in rows]
        spans = [_span(row) for row in rows]
        axes.hlines(
            range(len(rows)),
            [low for low, _ in spans],
            [high for _, high in spans],
            color=COLOURS["line"],
            linewidth=5,
            label="predicted to lie within",
        )
        for holds, marker, colour, told in (
            (True, "o", "kept", "measured, within"),
            (False, "X", "limit", "measured, outside"),
        ):
            places = [index for index, row in enumerate(rows) if row.holds is holds]
            if places:
                axes.scatter(
                    [ratios[place] for place in places],
                    places,
                    s=30,
                    marker=marker,
                    color=COLOURS[colour],
                    linewidths=0,
                    zorder=3,
                    label=told,
                )
        axes.axvline(1, color=COLOURS["quiet"], linewidth=0.8, zorder=0)
        ends = [*ratios, *(end for span in spans for end in span)]
        most = 1.15 * max(1.25, *(max(end, 1 / end) for end in ends if end > 0))
        axes.set_xscale("log", base=2)
        axes.set_xlim(1 / most, most)
        ratio_axis(axes.xaxis, most)
        axes.set_yticks(range(len(rows)), labels)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel("measured / predicted, logarithmic")
        figure.legend(loc="outside lower center", ncols=3 if width > NARROW else 1)
        spots = [
            Spot(axes, ratio, place, _told(row))
            for place, (row, ratio) in enumerate(zip(rows, ratios, strict=True))
        ]
        return to_svg(figure, name, "Measured over predicted", ", ".join(labels), spots)


def _told(row: Beside) -> tuple[str, ...]:
    """What a quantity's mark says."""
    lines = [f"{row.quantity}, {row.target}", f"measured {amount(row, row.measured)}"]
    if row.predicted is not None:
        lines.append(f"predicted {amount(row, row.predicted)}")
    if row.low is not None and row.high is not None and row.low < row.high:
        lines.append(f"between {amount(row, row.low)} and {amount(row, row.high)}")
    return tuple(lines)


def _span(row: Beside) -> tuple[float, float]:
    """The predicted interval as shares of the predicted value."""
    value = row.predicted or 1.0
    return (row.low or value) / value, (row.high or value) / value
