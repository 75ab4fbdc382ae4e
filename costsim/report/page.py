"""A plan as one HTML file that needs nothing else: no script, no network, no other file."""

from collections.abc import Callable

import numpy as np
from markupsafe import Markup

from costsim.base.units import format_bytes, format_macs, format_percent
from costsim.ir.graph import LayerGraph
from costsim.problem.importance import Importance
from costsim.report.axes import NARROW, WIDE
from costsim.report.channel_picture import channel_picture
from costsim.report.costs import cost_rows
from costsim.report.html import Made, Picture, render_template
from costsim.report.layers import GROUP_COLOURS, GROUPS
from costsim.report.network_picture import network_picture
from costsim.report.summary import Summary
from costsim.report.timeline_picture import memory_timeline_picture
from costsim.solving.planfile import PlanFile


def render_page(
    plan: PlanFile,
    graph: LayerGraph,
    importance: Importance | None = None,
    made: Made | None = None,
) -> str:
    """The page of `plan`, made for `graph`; with `importance`, the scores of channels are drawn.

    The same input gives the same bytes. Raises `InputError` if the plan does not fit the graph.
    """
    summary = Summary(plan, graph)
    return render_template(
        "page.html",
        filters={
            "percent": format_percent,
            "bytes": format_bytes,
            "macs": format_macs,
            "breakable": _breakable,
        },
        version=plan.versions["costsim"],
        made=made,
        plan=plan,
        summary=summary,
        costs=cost_rows(plan),
        pictures=_pictures(summary, importance) if plan.predicted is not None else {},
        at_peak=_at_peak(summary),
        layer_macs=summary.macs,
        timeline_caption=_timeline_caption(summary),
        network_caption=(
            "Above, the share of each layer's channels that is updated, on a grey ground where "
            "layers were inspected; a square marks an updated bias. Below, what each layer costs "
            "in one step, by cause."
        ),
        channels_caption=(
            "One bar a channel, in the layer's order; chosen channels are blue."
            + (
                f" Heights are the square root of the {importance.criterion} score."
                if importance
                else ""
            )
        ),
    )


def _breakable(name: str) -> Markup:
    """A dotted name that a narrow column may break after its dots."""
    return Markup(".<wbr>").join(name.split("."))


def _at_peak(summary: Summary) -> list[tuple[str, str, int]]:
    """What is live at the peak: group, name of its colour, bytes."""
    groups = summary.live_bytes
    position = int(np.sum(list(groups.values()), axis=0).argmax())
    return [
        (group, GROUP_COLOURS[group], int(groups[group][position]))
        for group in GROUPS
        if groups[group][position]
    ]


def _timeline_caption(summary: Summary) -> str:
    budget = summary.file.budget
    text = "Bytes live at each operation of the step, in the order they run; frozen weights apart."
    if summary.file.step.passes > 1:
        text += f" The forward and backward part runs {summary.file.step.passes} times."
    if budget.memory_bytes is not None and budget.accounting != "peak":
        text += (
            f" The budget of {format_bytes(budget.memory_bytes)} is in the {budget.accounting} "
            "accounting, which this picture does not show."
        )
    elif budget.memory_bytes is not None and summary.file.predicted is not None:
        share = summary.file.predicted.memory.peak_bytes / (budget.memory_bytes or 1)
        if share < 0.4:
            text += f" The budget of {format_bytes(budget.memory_bytes)} lies far above."
    return text


def _pictures(summary: Summary, importance: Importance | None) -> dict[str, Picture]:
    def both(name: str, draw: Callable[[float, str], str]) -> Picture:
        return Picture(Markup(draw(WIDE, f"{name}-wide")), Markup(draw(NARROW, f"{name}-narrow")))

    found = {
        "timeline": both(
            "timeline", lambda width, name: memory_timeline_picture(summary, width, name)
        ),
        "network": both("network", lambda width, name: network_picture(summary, width, name)),
    }
    if summary.file.plan.subsets:
        found["channels"] = both(
            "channels", lambda width, name: channel_picture(summary, width, name, importance)
        )
    return found
