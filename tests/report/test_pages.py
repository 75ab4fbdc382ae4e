"""Pages beside the plan's: a conclusion first, nothing drawn that is not known, who made them."""

import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest

from costsim.cli import main
from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.report.frontier import (
    conclusion,
    frontier_picture,
    frontier_svg,
    render_frontier_page,
    shown_points,
)
from costsim.report.html import Made
from costsim.solving.pareto import Frontier, Point

MADE = Made(("pareto", "--device", "my board.yaml"), datetime(2026, 2, 3, 4, 5, tzinfo=UTC))
VOID = {"meta", "br", "wbr", "link", "img", "input"}


class Page(HTMLParser):
    """Elements that are open, what they hold in words, and what they load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[tuple[str, str]] = []
        self.loads: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [str(value) for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [str(value) for name, value in attrs if name in ("src", "href") and tag]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip() and self.open:
            self.words.append((self.open[-1], " ".join(data.split())))


def checked(text: str) -> Page:
    """The page, which is whole and loads nothing; its answer is the first paragraph."""
    page = Page(text)
    assert not page.open
    assert all(one.startswith("#") for one in page.loads)
    first = next(tag for tag, _ in page.words if tag not in ("title", "style", "h1"))
    assert first == "p"
    assert 'class="answer' in text
    return page


def point(kind: str, used: float, share: float, **more: object) -> Point:
    plan = UpdatePlan((ChannelSubset("layer", "output", (0, 1)),))
    made = Point(kind, "", used, used, share, share, kind == "exact", plan)
    return replace(made, **more)  # type: ignore[arg-type]


EXACT = tuple(point("exact", 1024.0 * n, 0.1 * n) for n in (1, 2, 4, 6))
GREEDY = (point("greedy", 2048.0, 0.15), point("greedy", 4096.0, 0.35))
SCHEME = point("sparse-update", 9 * 1024.0, 0.0, label="49 KB", unscored=60, exceeds=("macs",))


def test_the_conclusion_of_a_frontier_says_most_half_and_greedy() -> None:
    told = conclusion(Frontier("memory", 1.0, EXACT, GREEDY))
    assert told == (
        "60.0 % of all gain takes 6 KiB, proven. Half of that takes 4 KiB. "
        "Greedy gets 35.0 % at most, for 4 KiB."
    )
    assert conclusion(Frontier("macs", 1.0, ())) == "No plan within the budgets gains anything."


def test_what_has_no_score_is_listed_and_not_drawn() -> None:
    """Drawn at no gain it would read as worthless."""
    with_scheme = Frontier("memory", 1.0, EXACT, (*GREEDY, SCHEME))
    without = Frontier("memory", 1.0, EXACT, GREEDY)
    drawn = [frontier_svg(one, "f", 9.2) for one in (with_scheme, without)]
    assert drawn[0] == drawn[1]
    assert frontier_picture(with_scheme, "t", "svg") == frontier_picture(without, "t", "svg")
    page = render_frontier_page(with_scheme, "net", "no limit")
    assert "sparse-update 49 KB" in page
    assert "60 channels without a score" in page
    assert "1 plans that update channels without a score" in page
    scored = replace(SCHEME, unscored=0, gain=0.2, share=0.2)
    assert frontier_svg(Frontier("memory", 1.0, EXACT, (*GREEDY, scored)), "f", 9.2) != drawn[0]


def test_a_point_stands_in_the_table_once() -> None:
    frontier = Frontier("memory", 1.0, EXACT, (*GREEDY, GREEDY[-1]))
    assert len(shown_points(frontier)) == len(EXACT) + len(GREEDY)


@pytest.mark.parametrize("points", [(), EXACT[:1], EXACT])
@pytest.mark.parametrize("against", ["memory", "macs", "latency"])
def test_a_frontier_of_any_length_has_a_page(points: tuple[Point, ...], against: str) -> None:
    frontier = Frontier(against, 1.0, points)
    text = render_frontier_page(frontier, "<net>", "memory 1 MiB", ("a note",), MADE)
    checked(text)
    assert text == render_frontier_page(frontier, "<net>", "memory 1 MiB", ("a note",), MADE)
    assert text.count("<svg") == (2 if points else 0)
    assert "&lt;net&gt;" in text
    assert "a note." in text


def test_a_page_says_what_made_it_and_when_where_that_is_known() -> None:
    frontier = Frontier("memory", 1.0, EXACT)
    text = render_frontier_page(frontier, "net", "no limit", made=MADE)
    assert "<code>costsim pareto --device &#39;my board.yaml&#39;</code>" in text
    assert "2026-02-03 04:05 UTC" in text
    assert "Made by" not in render_frontier_page(frontier, "net", "no limit")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small plan, measured here, and an adaptation, each with its page."""
    place = tmp_path_factory.mktemp("pages")
    small = ["--device", "jetson-nano", "--resolution", "32"]
    assert main(["plan", *small, "--solver", "last-layer", "--out", str(place / "p.json"),
                 "--memory", "64MB", "--report", str(place / "plan.html")]) == 0  # fmt: skip
    assert main(["measure", str(place / "p.json"), "--steps", "2", "--out", str(place / "m.json"),
                 "--report", str(place / "measure.html")]) == 0  # fmt: skip
    assert main(["adapt", *small, "--method", "LastLayer", "--iterations", "1",
                 "--report", str(place / "adapt.html")]) == 0  # fmt: skip
    assert main(["adapt", *small, "--method", "None", "--report", str(place / "none.html")]) == 0
    assert main(["calibrate", "--drift", str(place / "m.json"), "--device", "jetson-nano",
                 "--report", str(place / "drift.html")]) == 0  # fmt: skip
    return place


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("measure", r"\d of \d quantit(y|ies) as predicted\. A step took [\d.]+ m?s on local"),
        ("adapt", r"[\d.]+ % of 100 query images right, [\d.]+ % before: [+-][\d.]+ points, by"),
        ("none", r"before: \+0.0 points, with nothing trained\."),
        ("drift", r"1 measured step on another machine than predicted for"),
        ("plan", r"Update \d+ channels and 1 bias in 1 of 42 layers"),
    ],
)
@pytest.mark.slow
def test_pages_of_real_runs_begin_with_what_came_out(name: str, told: str, folder: Path) -> None:
    text = (folder / f"{name}.html").read_text(encoding="utf-8")
    page = checked(text)
    paragraphs = [words for tag, words in page.words if tag == "p"]
    assert re.search(told, paragraphs[0]), paragraphs[0]
    pictures = re.findall(r"<svg .*?</svg>", text, re.DOTALL)
    assert all('class="mark"' in one for one in pictures)
    command = {"none": "adapt", "drift": "calibrate --drift"}.get(name, name)
    assert re.search(rf"Made by <code>costsim {command} .*</code> on \d{{4}}-\d\d-\d\d", text)
