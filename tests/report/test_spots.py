"""What marks of pictures say: where they lie, to a pointer, to the keyboard, and in print."""

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from browser import Browser, chromium

from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.report.frontier import frontier_svg, render_frontier_page
from costsim.report.spots import MOST_STOPS, Spot
from costsim.report.svg import drawing, to_svg
from costsim.solving.pareto import Frontier, Point

SVG = "{http://www.w3.org/2000/svg}"

Place = tuple[float, float]


def point(kind: str, used: float, share: float) -> Point:
    plan = UpdatePlan((ChannelSubset("layer", "output", (0, 1)),))
    return Point(kind, "", used, used, share, share, kind == "exact", plan)


EXACT = tuple(point("exact", 1024.0 * n, 0.1 * n) for n in (1, 2, 4, 6))
GREEDY = (point("greedy", 2048.0, 0.15), point("greedy", 4096.0, 0.35))


def marks(svg: str) -> dict[Place, str]:
    """The centres of the round marks, with their words."""
    found = {}
    for mark in ET.fromstring(svg).iter(f"{SVG}g"):
        circle = mark.find(f"{SVG}circle")
        if mark.get("class") == "mark" and circle is not None:
            text = mark.find(f"{SVG}text")
            assert text is not None
            place = (float(circle.get("cx") or 0), float(circle.get("cy") or 0))
            found[place] = ", ".join(span.text or "" for span in text)
    return found


def drawn(svg: str) -> list[Place]:
    """Where markers are drawn, those of the legend and the ticks of axes among them."""
    uses = ET.fromstring(svg).iter(f"{SVG}use")
    return [(float(one.get("x") or 0), float(one.get("y") or 0)) for one in uses]


@pytest.mark.parametrize("scale", ["linear", "log"])
@pytest.mark.parametrize("width", [3.7, 9.2])
def test_a_spot_lies_upon_what_is_drawn_there(scale: str, width: float) -> None:
    """matplotlib's own places are the judge, after its layout, on both kinds of axes."""
    amounts = (1.0, 3.0, 250.0)
    with drawing(width, 3.0) as figure:
        axes = figure.add_subplot()
        axes.plot(amounts, amounts, "o")
        axes.set_xscale(scale)
        axes.set_xlabel("a name that takes room")
        spots = [Spot(axes, one, one, (f"{one:g} of it",)) for one in amounts]
        svg = to_svg(figure, "f", "title", "description", spots)
    assert list(marks(svg).values()) == ["1 of it", "3 of it", "250 of it"]
    for told in marks(svg):
        assert any(told == pytest.approx(shown, abs=0.02) for shown in drawn(svg))


def test_spans_lie_within_the_axes_and_flat_ones_can_be_hit() -> None:
    with drawing(4.0, 3.0) as figure:
        axes = figure.add_subplot()
        axes.set_xlim(0, 4)
        axes.set_ylim(0, 10)
        spots = [Spot(axes, (1, 2), None, ("high",)), Spot(axes, (0, 4), (5, 5), ("flat",))]
        svg = to_svg(figure, "f", "title", "description", spots)
        box = axes.get_window_extent()
        scale = 72 / figure.dpi
    high, flat = (
        {name: float(one.get(name) or 0) for name in ("x", "y", "width", "height")}
        for one in ET.fromstring(svg).findall(f".//{SVG}g[@class='mark']/{SVG}rect")
    )
    assert high["height"] == pytest.approx(box.height * scale, abs=0.02)
    assert high["width"] == pytest.approx(box.width * scale / 4, abs=0.02)
    assert high["y"] == pytest.approx(3.0 * 72 - box.y1 * scale, abs=0.02)
    assert flat["width"] == pytest.approx(box.width * scale, abs=0.02)
    assert flat["height"] >= 3
    middle = 3.0 * 72 - (box.y0 + box.height / 2) * scale
    assert flat["y"] + flat["height"] / 2 == pytest.approx(middle, abs=0.02)


def test_many_marks_are_no_stops_of_the_keyboard() -> None:
    for count, stops in ((MOST_STOPS, MOST_STOPS), (MOST_STOPS + 1, 0)):
        with drawing(4.0, 3.0) as figure:
            axes = figure.add_subplot()
            spots = [Spot(axes, n / count, 0.5, (str(n),)) for n in range(count)]
            svg = to_svg(figure, "f", "title", "description", spots)
        assert (svg.count('class="mark"'), svg.count("tabindex")) == (count, stops)


def test_digits_of_what_is_said_stay_and_markup_is_text() -> None:
    """Coordinates are cut to a hundredth, words are not."""
    with drawing(4.0, 3.0) as figure:
        axes = figure.add_subplot()
        svg = to_svg(figure, "f", "t", "d", [Spot(axes, 0.5, 0.5, ("0.12345 of <b>&\"'",))])
    assert list(marks(svg).values()) == ["0.12345 of <b>&\"'"]
    assert "<b>" not in svg


def test_without_the_pages_style_nothing_of_them_is_seen(tmp_path: Path) -> None:
    """As in a file of the picture alone: it looks as if there were no spots."""
    program = chromium()
    if program is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    pictures = []
    for name, spots in (("with", True), ("without", False)):
        with drawing(4.0, 3.0) as figure:
            axes = figure.add_subplot()
            axes.plot([0, 1], [0, 1])
            told = [Spot(axes, 0.5, 0.5, ("in the middle",)), Spot(axes, (0, 1), None, ("all",))]
            svg = to_svg(figure, "f", "title", "description", told if spots else ())
        file = tmp_path / f"{name}.svg"
        file.write_text(svg, encoding="utf-8")
        with Browser(program, file.as_uri(), tmp_path / name) as browser:
            browser.until("document.readyState === 'complete' && document.rootElement !== null")
            pictures.append(browser.call("Page.captureScreenshot")["data"])
    assert pictures[0] == pictures[1]


def test_every_point_of_a_frontier_says_its_numbers() -> None:
    hollow = replace(GREEDY[0], exceeds=("macs",))
    svg = frontier_svg(Frontier("memory", 1.0, EXACT, (hollow, GREEDY[1])), "f", 9.2)
    found = marks(svg)
    for told in list(found)[: len(EXACT)]:  # the others' markers are paths, or hollow
        assert any(told == pytest.approx(shown, abs=0.02) for shown in drawn(svg))
    assert list(found.values()) == [
        "exact, 1 KiB, 10.0 % of all gain, 2 channels in 1 layer, proven",
        "exact, 2 KiB, 20.0 % of all gain, 2 channels in 1 layer, proven",
        "exact, 4 KiB, 40.0 % of all gain, 2 channels in 1 layer, proven",
        "exact, 6 KiB, 60.0 % of all gain, 2 channels in 1 layer, proven",
        "greedy, 2 KiB, 15.0 % of all gain, 2 channels in 1 layer, breaks the limit on MACs",
        "greedy, 4 KiB, 35.0 % of all gain, 2 channels in 1 layer",
    ]


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A page with a picture, and with what is folded on a screen."""
    frontier = Frontier("memory", 1.0, EXACT, GREEDY)
    text = render_frontier_page(frontier, "net", "no limit")
    folded = "<details><summary>All</summary><p id='folded'>what is folded</p></details></main>"
    file = tmp_path / "page.html"
    file.write_text(text.replace("</main>", folded), encoding="utf-8")
    return file


def test_a_mark_is_read_by_pointer_and_keyboard_and_paper_shows_all(
    page: Path, tmp_path: Path
) -> None:
    program = chromium()
    if program is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    with Browser(program, page.as_uri(), tmp_path / "profile") as browser:
        browser.until("document.readyState === 'complete' && !!document.querySelector('.mark')")
        browser.call("Emulation.setDeviceMetricsOverride", width=1400, height=900,
                     deviceScaleFactor=1, mobile=False)  # fmt: skip
        shown = (
            "[...document.querySelectorAll('.wide .mark > text')].filter("
            "(one) => getComputedStyle(one).visibility === 'visible').map((one) => one.textContent)"
        )
        assert browser.value(shown) == []
        browser.value("document.querySelector('.wide .mark').focus()")
        (by_keyboard,) = browser.value(shown)
        assert by_keyboard.startswith("exact1 KiB")
        second = "document.querySelectorAll('.wide .mark > circle')[1].getBoundingClientRect()"
        x, y = (browser.value(f"({second}).{one} + {half}") for one, half in
                (("x", f"({second}).width / 2"), ("y", f"({second}).height / 2")))  # fmt: skip
        browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        (by_pointer,) = browser.until(f"({shown})[0]?.startsWith('exact2 KiB') && {shown}")
        assert by_pointer.startswith("exact2 KiB")
        browser.call("Emulation.setEmulatedMedia", media="print",
                     features=[{"name": "prefers-color-scheme", "value": "dark"}])  # fmt: skip
        assert browser.value(shown) == []
        folded = "document.getElementById('folded').checkVisibility({contentVisibilityAuto: true})"
        assert browser.value(folded)
        style = "getComputedStyle(document.body)"
        assert browser.value(f"[{style}.color, {style}.backgroundColor]") == [
            "rgb(0, 0, 0)", "rgb(255, 255, 255)"]  # fmt: skip
        for width in (700, 1000):
            browser.call("Emulation.setDeviceMetricsOverride", width=width, height=900,
                         deviceScaleFactor=1, mobile=False)  # fmt: skip
            assert browser.value("document.documentElement.scrollWidth") <= width
