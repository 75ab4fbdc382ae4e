"""Matplotlib figures as SVG that lives inside a page: its colours, its fonts, its width."""

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from costsim.report.spots import Spot, spots_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS: Mapping[str, str] = {
    "ink": "#1b1f24",
    "quiet": "#5b6570",
    "line": "#c9d0d7",
    "band": "#eef1f4",
    "limit": "#b3261e",
    "weights": "#009e73",
    "optimizer": "#cc79a7",
    "kept": "#0072b2",
    "dweights": "#d55e00",
    "gradient": "#e69f00",
    "activation": "#9fc9ea",
    "unchosen": "#b9c2cb",
}
"""Names of the page's colours and what they are in light mode; `page.css` has both modes."""

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"

STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.parse_math": False,
    "text.color": COLOURS["ink"],
    "axes.edgecolor": COLOURS["line"],
    "axes.labelcolor": COLOURS["quiet"],
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "xtick.color": COLOURS["line"],
    "ytick.color": COLOURS["line"],
    "xtick.labelcolor": COLOURS["quiet"],
    "ytick.labelcolor": COLOURS["quiet"],
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
}


@contextmanager
def drawing(width: float, height: float) -> "Iterator[Figure]":
    """An empty figure of this many inches, drawn without a display and without global state."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(dict(STYLE)):
        yield Figure(figsize=(width, height), layout="constrained")


def to_svg(
    figure: "Figure", name: str, title: str, description: str, spots: Sequence[Spot] = ()
) -> str:
    """`figure` as an `<svg>` element: same input, same bytes.

    `name` is unique in the page and prefixes every id; `title` and `description` are what a
    screen reader says, and of `spots` what they say. Colours of `COLOURS` become CSS variables.
    """
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    root = ET.fromstring(buffer.getvalue())
    for metadata in root.findall(f"{{{SVG}}}metadata"):
        root.remove(metadata)
    _name_ids(root, name)
    for key in ("width", "height"):
        root.attrib.pop(key, None)
    root.set("role", "group" if spots else "img")
    root.set("aria-labelledby", f"{name}-title {name}-description")
    for position, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ET.Element(f"{{{SVG}}}{tag}")
        element.set("id", f"{name}-{'title' if tag == 'title' else 'description'}")
        element.text = text
        root.insert(position, element)
    if spots:
        for drawn in root.findall(f"{{{SVG}}}g"):
            drawn.set("aria-hidden", "true")  # ticks and names, which the spots say in order
    ET.register_namespace("", SVG)
    ET.register_namespace("xlink", XLINK)
    drawn_svg = _with_variables(ET.tostring(root, encoding="unicode"))
    return drawn_svg.removesuffix("</svg>") + spots_svg(figure, spots) + "</svg>"


def _name_ids(root: ET.Element, name: str) -> None:
    """Prefix the ids that something refers to, and drop all others."""
    text = ET.tostring(root, encoding="unicode")
    used = set(re.findall(r"url\(#([^)]+)\)", text)) | set(re.findall(r'href="#([^"]+)"', text))
    rename: Callable[[str], str] = lambda found: f"{name}-{found}"  # noqa: E731
    for element in root.iter():
        for key, value in list(element.attrib.items()):
            if key == "id":
                if value in used:
                    element.set("id", rename(value))
                else:
                    del element.attrib["id"]
            elif key.endswith("href") and value.startswith("#"):
                element.set(key, "#" + rename(value[1:]))
            elif "url(#" in value:
                element.set(
                    key, re.sub(r"url\(#([^)]+)\)", lambda m: f"url(#{rename(m[1])})", value)
                )


def _with_variables(svg: str) -> str:
    """Colours in style attributes as CSS variables, fonts left to the page."""
    for variable, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{variable}, {colour})")
    svg = re.sub(r"font: ([\d.]+px) [^;\"]+", r"font-size: \1", svg)
    svg = re.sub(r"font-family: [^;\"]+;? ?", "", svg)
    # a hundredth of a point is finer than any screen
    svg = re.sub(r"(\.\d\d)\d+", r"\1", svg)
    return re.sub(r"\s*\n\s*", " ", svg)
