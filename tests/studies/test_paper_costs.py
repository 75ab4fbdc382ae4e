"""What the paper prints beside what is predicted: complete, the same in every form, and close."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fork_server import run

from costsim.cli import main
from costsim.device import load_device, shipped_devices
from costsim.models.networks import NETWORKS as BUILT_IN
from costsim.report.published import SHOWN
from costsim.studies.published import REPRODUCTIONS
from costsim.studies.published.figures import BOARDS, FIGURES, MCUNET, NETWORKS, PI, Quantity
from costsim.studies.published.methods import METHODS, TRACED

ROOT = Path(__file__).parents[2]
NUMBER = re.compile(r"\d[\d,.]*\d|\d")


class Printed(NamedTuple):
    """One run of the command: its tables, and the rows that it wrote."""

    text: str
    rows: list[dict[str, Any]]
    notes: list[str]


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Printed:
    out = tmp_path_factory.mktemp("reproduced") / "costs.json"
    done = run(["-m", "costsim", "reproduce", "paper-costs", "--out", out], cwd=ROOT)
    assert done.returncode == 0, done.stderr
    document = json.loads(out.read_text(encoding="utf-8"))
    assert (document["schema"], document["name"]) == ("costsim.reproduction/1", "paper-costs")
    return Printed(done.stdout, document["rows"], document["notes"])


def tables(text: str) -> dict[str, list[list[str]]]:
    """The cells of every table, by its heading; the first line is the head."""
    found = {}
    for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        title, _, body = part.partition("\n")
        lines = [line for line in body.splitlines() if line.startswith("| ")]
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        if cells:
            found[title] = [cells[0], *cells[2:]]
    return found


def key(row: Mapping[str, Any]) -> tuple[str, str, str | None, str | None]:
    return row["quantity"], row["method"], row["network"], row["board"]


# Complete.


def test_every_published_figure_has_a_row_for_each_network_that_it_is_of(printed: Printed) -> None:
    rows = {key(row): row for row in printed.rows}
    assert len(rows) == len(printed.rows), "none is there twice"
    ratios = (Quantity.LESS_MEMORY, Quantity.FEWER_MACS, Quantity.FASTER, Quantity.LESS_ENERGY)
    for figure in FIGURES:
        of_all = figure.network is None and figure.quantity not in ratios
        for network in NETWORKS if of_all else (figure.network,):
            row = rows[figure.quantity, figure.method, network, figure.board]
            assert row["published"] == {
                "low": figure.low, "high": figure.high, "source": figure.source
            }  # fmt: skip
            middle = (figure.low + figure.high) / 2
            assert row["ratio"] == pytest.approx(row["predicted"]["value"] / middle)


def test_every_method_is_priced_on_every_network_and_board(printed: Printed) -> None:
    rows = {key(row) for row in printed.rows}
    for method in METHODS:
        for network in (MCUNET,) if method in TRACED else NETWORKS:
            assert {(Quantity.MEMORY, method, network, None)} < rows
            assert {(Quantity.MACS, method, network, None)} < rows
            for board in BOARDS:
                assert {(Quantity.TIME, method, network, board)} < rows
                assert {(Quantity.ENERGY, method, network, board)} < rows


def test_a_row_without_a_figure_has_no_ratio(printed: Printed) -> None:
    for row in printed.rows:
        assert (row["published"] is None) == (row["ratio"] is None)
    assert any(row["published"] is None for row in printed.rows)


def test_what_was_fitted_says_so(printed: Printed) -> None:
    """The rows that the device file calls its references, and no others."""
    fitted = {key(row) for row in printed.rows if row["fitted"]}
    of_both = (Quantity.TIME, Quantity.ENERGY)
    assert fitted == {(of, method, MCUNET, PI) for of in of_both for method in METHODS}
    assert "fitted" in printed.notes[0]
    references = load_device(PI).references
    for figure in FIGURES:
        if figure.quantity is Quantity.TIME and figure.network == MCUNET:
            name = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "_", figure.method).lower()
            name = {"tiny_tl": "tinytl", "full_train": "full", "tiny_train": "tinytrain"}.get(
                name, name
            )
            assert references[f"tinytrain_mcunet_whole_task_{name}"].value == figure.low


def test_figures_are_of_what_there_is() -> None:
    assert set(NETWORKS) <= set(BUILT_IN)
    assert set(BOARDS) <= set(shipped_devices())
    assert {figure.quantity for figure in FIGURES} == set(Quantity) == set(SHOWN)
    assert all(0 < figure.low <= figure.high and figure.source for figure in FIGURES)


# The same in every form.


def test_the_tables_say_what_the_rows_say(printed: Printed) -> None:
    shown = tables(printed.text)
    assert sum(len(lines) - 1 for lines in shown.values()) == len(printed.rows)
    for row in printed.rows:
        name, show = SHOWN[Quantity(row["quantity"])]
        title = name if row["board"] is None else f"{name}, {row['board']}"
        head, *lines = shown[title[0].upper() + title[1:]]
        (line,) = [one for one in lines if one[:2] == [row["network"] or "all", row["method"]]]
        cells = dict(zip(head, line, strict=True))
        published, ratio = row["published"], row["ratio"]
        assert cells["published"].startswith("-" if published is None else show(published["low"]))
        assert cells["predicted"].startswith(show(row["predicted"]["value"]))
        told = "-" if ratio is None else f"{ratio:.2f}" + " *" * row["fitted"]
        assert cells["ratio"] == told
        for other, amount in row["others"].items():
            assert cells[other] == show(amount["value"])
    assert all(f"- {note}\n" in printed.text for note in printed.notes)


def test_the_page_is_what_the_command_prints(printed: Printed) -> None:
    page = (ROOT / "docs" / "paper-costs.md").read_text(encoding="utf-8")
    written, shown = tables(page), tables(printed.text)
    assert list(written) == list(shown)
    for title, lines in written.items():
        for on_page, now in zip(lines, shown[title], strict=True):
            for one, other in zip(on_page, now, strict=True):
                told = f"{title}: run the command again: {other!r} is no longer {one!r}"
                assert NUMBER.sub("#", one) == NUMBER.sub("#", other), told
                numbers = [
                    [float(text.replace(",", "")) for text in NUMBER.findall(cell)]
                    for cell in (one, other)
                ]
                assert numbers[0] == pytest.approx(numbers[1], rel=0.02, abs=0.011), told
    words = " ".join(page.split())
    assert all(" ".join(note.split()) in words for note in printed.notes)


# Close, where nothing was fitted.


def test_full_training_is_as_published_where_nothing_was_fitted(printed: Printed) -> None:
    rows = [
        row
        for row in printed.rows
        if row["quantity"] == Quantity.TIME and row["published"] and not row["fitted"]
    ]
    assert [(row["method"], row["network"]) for row in rows] == [
        ("FullTrain", network) for network in NETWORKS if network != MCUNET
    ]
    for row in rows:
        assert row["ratio"] == pytest.approx(1, rel=0.2)
        assert row["predicted"]["low"] < row["published"]["low"] < row["predicted"]["high"]


def test_without_swapping_full_training_is_less_than_thrice_tinytrain(printed: Printed) -> None:
    rows = {key(row): row for row in printed.rows}
    for network in NETWORKS:
        full, sparse = (
            rows[Quantity.TIME, method, network, PI]["others"]["image by image"]["value"]
            for method in ("FullTrain", "TinyTrain")
        )
        assert 2 < full / sparse < 3


def test_more_images_a_pass_are_faster_everywhere(printed: Printed) -> None:
    for row in printed.rows:
        if row["quantity"] == Quantity.TIME and row["others"]:
            alone, together = (amount["value"] for amount in row["others"].values())
            assert together < alone


def test_choosing_on_the_pi_is_within_the_published_range(printed: Printed) -> None:
    for row in printed.rows:
        if (row["quantity"], row["board"]) == (Quantity.CHOOSING, PI):
            published = row["published"]
            assert published["low"] < row["predicted"]["value"] < published["high"]


# Typed wrongly.


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["papercosts"], "reproduction 'papercosts' is unknown; did you mean 'paper-costs'?"),
        ([], "Missing argument"),
        (["paper-costs", "--out", "nowhere/at/all.json"], "--out: the folder"),
    ],
)
def test_what_cannot_be_reproduced_is_refused_in_a_line(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce", *arguments]) == 2
    captured = capsys.readouterr()
    assert told in captured.err
    assert len(captured.err.splitlines()) == 1
    assert not captured.out


def test_the_registry_has_what_the_help_lists(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in REPRODUCTIONS)
