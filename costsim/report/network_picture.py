"""All layers of a network: what is updated of each, and what that costs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from costsim.base.units import format_macs
from costsim.report.axes import NARROW, legend, mac_axis, set_ticks, spaced
from costsim.report.spots import Spot
from costsim.report.summary import Summary
from costsim.report.svg import COLOURS, drawing, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def network_picture(summary: Summary, width: float, name: str) -> str:
    """The whole network in order: channels chosen of each layer, and its MACs by cause."""
    graph, macs = summary.graph, {entry.name for entry in summary.macs}
    names = [call.layer or call.name for call in graph.calls]
    layers = [name for name in dict.fromkeys(names) if name in graph.layers or name in macs]
    with drawing(width, 4.6 if width > NARROW else 5.0) as figure:
        shares, work = figure.subplots(2, 1, sharex=True, height_ratios=(2, 3))
        updated = _draw_shares(shares, summary, layers)
        _draw_macs(work, summary, layers)
        legend(work, width)
        room = len(layers) / (26 if width > NARROW else 12)
        set_ticks(work, spaced(list(enumerate(layers)), room))
        return to_svg(
            figure,
            name,
            "The layers of the network, first to last",
            f"{updated} of {len(layers)} layers have channels to update; below, the MACs of each "
            "layer by cause.",
            [
                Spot(axes, (index, index + 1), None, _told(summary, layer))
                for axes in (shares, work)
                for index, layer in enumerate(layers)
            ],
        )


def _told(summary: Summary, layer: str) -> tuple[str, ...]:
    """What is updated of a layer, and what it costs in one step."""
    lines = [layer]
    for row in summary.chosen:
        if row.name == layer:
            channels = f"{len(row.channels)} of {row.size} channels" if row.size else ""
            lines.append(" and ".join(filter(None, (channels, "its bias" if row.bias else ""))))
    for entry in summary.macs:
        if entry.name == layer:
            causes = ("forward", "recompute", "input_gradient", "weight_gradient")
            words = ("forward", "computed again", "input gradient", "weight gradient")
            lines += [
                f"{word} {format_macs(getattr(entry, cause))}"
                for cause, word in zip(causes, words, strict=True)
                if getattr(entry, cause)
            ]
    return tuple(lines)


def _draw_shares(shares: "Axes", summary: Summary, layers: Sequence[str]) -> int:
    """The share of each layer's channels that is updated; how many layers have any."""
    inspected = {entry.name for entry in summary.file.importance.layers}
    chosen = {row.name: row for row in summary.chosen}
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
    biases = [i for i, layer in enumerate(layers) if layer in summary.file.plan.biases]
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
    return sum(1 for height in heights if height)


def _draw_macs(work: "Axes", summary: Summary, layers: Sequence[str]) -> None:
    """The MACs of each layer, by cause, one upon the other."""
    macs = {entry.name: entry for entry in summary.macs}
    centres = np.arange(len(layers)) + 0.5
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
    mac_axis(work, top)
    work.set_ylabel("MACs of a step")


def runs(flags: Sequence[bool]) -> list[tuple[int, int]]:
    """The stretches of true `flags` as (first, one past the last)."""
    edges = np.flatnonzero(np.diff(np.array([False, *flags, False], dtype=np.int8)))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]
