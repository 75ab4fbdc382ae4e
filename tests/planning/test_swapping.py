"""Plans of steps that swap, as a person asks for them: a price, and other ways beside it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from costsim.base.files import to_json_text
from costsim.cli import main
from costsim.device import load_device
from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.models.networks.graph import architecture_graph
from costsim.planning.swapping import with_norms
from costsim.pricing.ways import FITTING, PLANNED, SINGLE, STOCK
from costsim.solving.planfile import read_plan

Board = Callable[..., str]

TASK = (
    "--ways", "2", "--shots", "2", "--batch", "4", "--optimizer", "sgd", "--solver", "full",
    "--macs", "100%",
)  # fmt: skip
BUILT_IN = ("--model", "mbv2-w0.35", "--resolution", "64", "--inspect", "4")
TRACED = ("--model", "examples.classifier:make", "--loss", "cross_entropy")


@pytest.fixture
def board(tmp_path: Path) -> Board:
    """The Pi with so much RAM, all of it for training, and swap or none."""

    def write(ram: str, *, swap: bool = True) -> str:
        document = load_device("pi-zero-2").to_json()
        document["memory"]["ram"]["size"]["value"] = ram
        document["memory"]["ram"]["available"]["value"] = 1.0
        document["training_budget"]["memory"]["value"] = "1KiB"
        if not swap:
            del document["swap"]
        path = tmp_path / "board.yaml"
        path.write_text(to_json_text(document), encoding="utf-8")
        return str(path)

    return write


def planned(out: Path, *arguments: str) -> Any:
    assert main(["plan", *arguments, "--out", str(out)]) == 0
    return json.loads(out.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("model", "ram"), [(BUILT_IN, "4608KiB"), pytest.param(TRACED, "12MiB", marks=pytest.mark.slow)]
)
def test_a_step_that_swaps_is_priced_with_other_ways_beside_it(
    model: tuple[str, ...], ram: str, board: Board, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "plan.json"
    document = planned(out, "--device", board(ram), *model, *TASK, "--memory", "64MiB")
    room = load_device(board(ram)).largest_block_bytes
    ways = {way["name"]: way for way in document["ways"]}
    assert list(ways) == [PLANNED, FITTING, SINGLE, STOCK]
    own, fitting, stock = ways[PLANNED], ways[FITTING], ways[STOCK]
    memory = document["predicted"]["memory"]
    assert own["held_bytes"] == memory["peak_bytes"] + memory["frozen_weight_bytes"]
    assert own["excess_bytes"] == own["held_bytes"] - room > 0
    assert fitting["held_bytes"] <= room
    assert fitting["excess_bytes"] == 0
    assert fitting["latency_s"]["value"] < own["latency_s"]["value"] < stock["latency_s"]["value"]
    training = next(
        p for p in document["predicted"]["adaptation"]["phases"] if p["phase"] == "training"
    )
    assert own["swap_s"]["value"] <= training["swap_s"]["value"]
    told = " ".join(capsys.readouterr().out.split())
    assert "swaps for" in told
    assert "room with swap (peak)" in told
    assert read_plan(out).to_json() == document
    assert main(["show", str(out)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert all(name in shown for name in ways)


@pytest.mark.parametrize(
    ("model", "ram"), [(BUILT_IN, "4MiB"), pytest.param(TRACED, "9MiB", marks=pytest.mark.slow)]
)
def test_a_pass_of_fewer_images_than_planned_is_sought_among_all(
    model: tuple[str, ...], ram: str, board: Board, tmp_path: Path
) -> None:
    arguments = ("--device", board(ram), *model, *TASK, "--micro-batch", "2", "--memory", "64MiB")
    ways = planned(tmp_path / "plan.json", *arguments)["ways"]
    assert [(way["name"], way["samples_a_pass"]) for way in ways] == [(PLANNED, 2), (FITTING, 1)]


@pytest.mark.parametrize(
    ("swap", "more"), [(False, ()), (True, ("--latency", "1h")), (True, ("--memory", "4608KiB"))]
)
def test_nothing_swaps_where_it_cannot_or_nobody_allowed_it(
    swap: bool, more: tuple[str, ...], board: Board, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "--device",
        board("4608KiB", swap=swap),
        *BUILT_IN,
        *TASK,
        "--memory",
        "64MiB",
        *more,
    ]
    assert main(["plan", *arguments]) == 1
    assert "No plan is within the budgets" in capsys.readouterr().out


def test_a_plan_that_does_not_swap_has_no_other_ways(board: Board, tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    document = planned(out, "--device", board("64MiB"), *BUILT_IN, *TASK, "--memory", "32MiB")
    assert "ways" not in document
    assert document["predicted"]["swap_s"]["value"] == 0


def test_with_norms_apart_a_bias_is_that_of_the_norm() -> None:
    folded = architecture_graph("mcunet-5fps", resolution=64)
    graph = architecture_graph("mcunet-5fps", resolution=64, batch_norm=True)
    subset = ChannelSubset("blocks.1.expand", "output", (0, 3))
    plan = UpdatePlan((subset,), frozenset({"blocks.2.project"}))
    found = with_norms(plan, folded, graph)
    assert found == UpdatePlan((subset,), frozenset({"blocks.2.project_norm"}))
    assert with_norms(UpdatePlan.full(folded), folded, graph) == UpdatePlan.full(graph)
    assert with_norms(plan, folded, folded) is plan
