"""`costsim inspect`: the figures are those of plans that train nothing, a layer, and everything."""

import json
from typing import Any

import pytest
import torch
from torch import nn

from costsim.cli import main
from costsim.device import load_device
from costsim.ir.plan import UpdatePlan
from costsim.ir.program import compile_program
from costsim.ir.step import TrainingStep
from costsim.models.networks import NETWORKS
from costsim.models.networks.graph import architecture_graph
from costsim.models.tracing import trace
from costsim.planning.inspection import inspect_graph
from costsim.pricing.cost import price


def inspected(
    capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0
) -> dict[str, Any]:
    assert main(["inspect", *arguments, "--json"]) == status
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


@pytest.mark.parametrize("name", NETWORKS)
def test_full_and_forward_are_what_any_plan_is_priced_between(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = inspected(capsys, name)
    graph, step = architecture_graph(name), TrainingStep()
    full = price(compile_program(graph, UpdatePlan.full(graph), step))
    none = price(compile_program(graph, UpdatePlan(), step))
    assert found["cases"]["full"] == full.to_json("peak")
    assert found["cases"]["forward"] == none.to_json("peak")
    assert found["cases"]["forward"]["macs"]["forward"] == graph.forward_macs()
    last = found["cases"]["last layer"]
    assert none.memory.peak_bytes <= last["memory"]["peak_bytes"] <= full.memory.peak_bytes
    assert found["parameters"] == sum(parameter.size for parameter in graph.parameters)


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_add_up_to_the_whole(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = inspected(capsys, name)
    rows, full = found["by_layer"], found["cases"]["full"]
    assert sum(row["parameters"] for row in rows) == found["parameters"]
    assert sum(row["forward_macs"] for row in rows) == full["macs"]["forward"]
    backward = full["macs"]["input_gradient"] + full["macs"]["weight_gradient"]
    assert sum(row["backward_macs"] for row in rows) == backward
    assert sum(row["kept_bytes"] for row in rows) <= full["memory"]["kept_bytes"]


def test_a_network_of_a_persons_own() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 5))
    graph = trace(model.eval(), torch.zeros(1, 3, 8, 8))
    found = inspect_graph("own", graph, TrainingStep(), load_device("stm32f746"))
    assert [case.name for case in found.cases] == ["forward", "last layer", "full"]
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert found.cases[0].cost.macs.forward == 4 * 3 * 9 * 6 * 6 + 4 * 6 * 6 * 5
    assert found.cases[1].cost.macs.weight_gradient == 4 * 6 * 6 * 5
    assert [case.trains for case in found.cases] == [False, True, True]
    assert found.fits


def test_nothing_to_train_is_inference_alone() -> None:
    graph = trace(nn.Sequential(nn.ReLU(), nn.Flatten()).eval(), torch.zeros(1, 3, 8, 8))
    found = inspect_graph("none", graph, TrainingStep())
    assert [case.name for case in found.cases] == ["forward"]


def test_a_device_adds_seconds_joules_and_whether_it_fits(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = inspected(capsys, "mcunet-5fps", "--device", "jetson-nano", "--target", "cpu")
    assert (found["device"], found["target"]) == ("jetson-nano", "cpu")
    assert all(case["fits"] and case["latency_s"]["step"] > 0 for case in found["cases"].values())
    small = inspected(
        capsys, "mcunet-320kb-1mb", "--device", "stm32f746", "--resolution", "320", status=1
    )
    assert not small["cases"]["forward"]["fits"]


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("device", [(), ("--device", "stm32f746")])
def test_the_tables_name_every_layer_at_any_width(
    columns: int,
    device: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["inspect", "mcunet-5fps", *device]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= columns
    joined = "".join(shown.split())
    assert columns < 80 or all(
        layer.rpartition(".")[2] in joined for layer in architecture_graph("mcunet-5fps").layers
    )


def test_what_cannot_be_inspected_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for arguments, told in (
        (["mcunet"], "model 'mcunet' is unknown; did you mean 'mcunet-5fps'?"),
        (["mcunet-5fps", "--target", "gpu"], "--target is of a device; give --device too"),
        (["mcunet-5fps", "--device", "jetson-nano", "--target", "npu"], "has no target 'npu'"),
        (["mcunet-5fps", "--bits", "7"], "7"),
        ([], "Missing argument 'MODEL'"),
    ):
        assert main(["inspect", *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert told in line


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--resolution 0", "resolution is 0; at least 1 is needed"),
        ("--resolution -5", "resolution is -5; at least 1 is needed"),
        ("--resolution 31", "resolution is 31; mcunet-5fps needs at least 32 pixels a side"),
        ("--resolution 1000000000", "at most 1 GiB can be traced"),
        ("--bits weights=8,weights=16", "says twice what weights have"),
        ("--bits weights=8,32", "says twice what weights and activations and gradients and opt"),
    ],
)
def test_what_no_network_takes_is_refused_as_when_planning(
    words: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["inspect", "mcunet-5fps"], ["plan", "--device", "jetson-nano"]):
        assert main([*command, *words.split()]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert told in line


def test_bits_of_all_and_then_of_some(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "mcunet-5fps", "--bits", "32,weights=8"]) == 0
    mixed = capsys.readouterr().out
    rest = "activations=32,gradients=32,optimizer=32"
    assert main(["inspect", "mcunet-5fps", "--bits", f"weights=8,{rest}"]) == 0
    assert capsys.readouterr().out == mixed
