"""What a mark of a picture says under a pointer or the keyboard: shapes that nobody sees.

They lie above the drawing and need no script: the page's style shows the words of the one that is
pointed at or has the focus. Where there is no such style, in a file of the picture alone, nothing
of them is seen.
"""

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS_AN_INCH = 72
"""Units of an SVG picture that matplotlib writes."""

RADIUS = 6.0
"""Around a point, so that a finger hits it."""

LEAST_SIDE = 3.0
"""Of a shape that is flat in the drawing."""

LINE_HEIGHT, GAP = 11.0, 10.0
MOST_STOPS = 60
"""Of the keyboard in one picture; one with more marks has a table beside it for that."""


@dataclass(frozen=True, eq=False)
class Spot:
    """The words for one mark of `axes`, line by line; the first names it.

    `x` and `y` are where it is, in the units of the axes: a point's place, or the two ends of a
    span; without `y` it is as high as the axes.
    """

    axes: "Axes"
    x: float | tuple[float, float]
    y: float | tuple[float, float] | None
    lines: tuple[str, ...]


def spots_svg(figure: "Figure", spots: Sequence[Spot]) -> str:
    """The shapes of all `spots` of a figure that has been drawn, in the units of its SVG."""
    group = ET.Element("g")
    width, height = (side * POINTS_AN_INCH for side in figure.get_size_inches())
    for spot in spots:
        left, right, top, bottom = _box(spot, figure.dpi, height)
        mark = ET.SubElement(group, "g", {"class": "mark", "fill": "transparent"})
        if len(spots) <= MOST_STOPS:
            mark.attrib |= {"tabindex": "0", "role": "img", "aria-label": ", ".join(spot.lines)}
        if left == right and top == bottom:
            place = {"cx": f"{left:.2f}", "cy": f"{top:.2f}", "r": f"{RADIUS:g}"}
            ET.SubElement(mark, "circle", place)
        else:
            _rectangle(mark, left, right, top, bottom)
        _words(mark, spot.lines, (left + right) / 2, (top, bottom), (width, height))
    return ET.tostring(group, encoding="unicode") if spots else ""


def _box(spot: Spot, dpi: float, height: float) -> tuple[float, float, float, float]:
    """Left, right, top and bottom of a spot in the SVG, whose origin is at the top."""
    x0, x1 = spot.x if isinstance(spot.x, tuple) else (spot.x, spot.x)
    if spot.y is None:
        y0, y1 = spot.axes.get_ylim()
    else:
        y0, y1 = spot.y if isinstance(spot.y, tuple) else (spot.y, spot.y)
    corners = spot.axes.transData.transform([(x0, y0), (x1, y1)]) * POINTS_AN_INCH / dpi
    (left, right), (low, high) = sorted(corners[:, 0]), sorted(corners[:, 1])
    return left, right, height - high, height - low


def _rectangle(mark: ET.Element, left: float, right: float, top: float, bottom: float) -> None:
    missing = max(0.0, LEAST_SIDE - (bottom - top)) / 2
    place = {
        "x": f"{left:.2f}",
        "y": f"{top - missing:.2f}",
        "width": f"{max(right - left, 0.1):.2f}",
        "height": f"{bottom - top + 2 * missing:.2f}",
    }
    ET.SubElement(mark, "rect", place)


def _words(
    mark: ET.Element,
    lines: Sequence[str],
    middle: float,
    ends: tuple[float, float],
    size: tuple[float, float],
) -> None:
    """The lines above the mark or, where there is no room, below its top; turned inwards."""
    (width, _), (top, _) = size, ends
    first = top - GAP - LINE_HEIGHT * (len(lines) - 1)
    if first < LINE_HEIGHT:
        first = top + GAP + LINE_HEIGHT
    anchor = "start" if middle < width / 3 else "end" if middle > 2 * width / 3 else "middle"
    text = ET.SubElement(
        mark, "text", {"text-anchor": anchor, "y": f"{first:.2f}", "visibility": "hidden"}
    )
    for index, line in enumerate(lines):
        place = {"x": f"{middle:.2f}"} | ({"dy": f"{LINE_HEIGHT:g}"} if index else {})
        ET.SubElement(text, "tspan", place).text = line
