"""One adaptation as a page: what it brought, what was trained, and what it costs on the device."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from costsim.base.units import counted, format_bytes, format_percent, format_seconds
from costsim.report.amounts import interval
from costsim.report.axes import NARROW, WIDE
from costsim.report.html import Made, Picture, render_template
from costsim.report.spots import Spot
from costsim.report.svg import COLOURS, drawing, to_svg

if TYPE_CHECKING:
    from costsim.learning.adaptation.one_task import Adapted


def conclusion(adapted: "Adapted") -> str:
    """The accuracy before and after, by training what, at what cost, in words."""
    situation, cost = adapted.situation, adapted.cost
    queries = len(situation.task.query_labels)
    plan = adapted.choice.plan
    before, after = adapted.accuracy_before, adapted.accuracy_after
    if adapted.diverged:
        return "The training diverged, and the network was left as it was."
    if queries:
        points = 100 * (after - before)
        told = (
            f"{format_percent(after)} of {counted(queries, 'query image')} right, "
            f"{format_percent(before)} before: {points:+.1f} points"
        )
    else:
        told = "Adapted, with no query image to measure it on"
    channels = sum(len(subset.channels) for subset in plan.subsets)
    if not channels and not plan.biases:
        return f"{told}, with nothing trained."
    layers = len({subset.layer for subset in plan.subsets} | plan.biases)
    told += f", by training {counted(channels, 'channel')} in {counted(layers, 'layer')}"
    told += f" with {format_bytes(cost.step.memory.peak_bytes)} at the peak"
    whole = None if cost.adaptation is None else cost.adaptation.cost
    if whole is not None and whole.latency_s is not None:
        took = whole.latency_s
        told += f", predicted to take {interval(took.value, took.low, took.high)}"
        told += f" on {situation.place.device.name}"
    if cost.exceeds:
        told += "; outside the budget"
    return f"{told}."


def render_adaptation_page(
    adapted: "Adapted",
    rows: Sequence[tuple[str, str]],
    notes: Sequence[str] = (),
    made: Made | None = None,
) -> str:
    """The page: its conclusion, the loss, the phases on the device, and all facts (`rows`)."""
    picture = None
    if adapted.losses:
        picture = Picture(
            *(
                Markup(_picture(adapted.losses, f"loss-{name}", width))
                for width, name in ((WIDE, "wide"), (NARROW, "narrow"))
            )
        )
    adaptation = adapted.cost.adaptation
    whole = None if adaptation is None else adaptation.cost
    phases = []
    if whole is not None and whole.latency_s is not None:
        phases = [
            (str(one.phase), format_bytes(one.peak_bytes), format_seconds(took.value))
            for one in whole.phases
            for took in (whole.seconds(one.phase),)
        ]
    return render_template(
        "adaptation.html",
        made=made,
        title=f"{adapted.situation.backbone.name} adapted by {adapted.method}",
        answer=conclusion(adapted),
        device=adapted.situation.place.device.name,
        picture=picture,
        phases=phases,
        rows=rows,
        notes=notes,
    )


def _picture(losses: Sequence[float], name: str, width: float) -> str:
    """The loss of each iteration, before its step."""
    from matplotlib.ticker import MaxNLocator

    with drawing(width, 2.8) as figure:
        axes = figure.add_subplot()
        iterations = range(1, len(losses) + 1)
        axes.plot(iterations, losses, "-o", color=COLOURS["kept"], markersize=3, linewidth=1.2)
        axes.set_xlim(0.5, len(losses) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(bottom=0)
        axes.set_xlabel("iteration")
        axes.set_ylabel("loss before its step")
        axes.grid(color=COLOURS["band"], zorder=0)
        axes.set_axisbelow(True)
        told = f"From {losses[0]:.3g} in the first iteration to {losses[-1]:.3g} in the last."
        spots = [
            Spot(axes, number, loss, (f"iteration {number}", f"loss {loss:.4g}"))
            for number, loss in zip(iterations, losses, strict=True)
        ]
        return to_svg(figure, name, "Loss by iteration", told, spots)
