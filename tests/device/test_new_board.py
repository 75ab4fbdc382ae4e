"""A board of one's own: a file from a template, bare values, all mistakes, banks, the schema."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from costsim.base.errors import InputError, Mistakes
from costsim.c.emulation.memory_map import memory_map
from costsim.cli import main
from costsim.device import DeviceSpec, load_device
from costsim.device.cores import CORES
from costsim.device.files import parse_device
from costsim.device.quantity import BARE
from costsim.device.reference import schema_page
from costsim.device.scaled import NewBoard, core_of, device_like

ROOT = Path(__file__).parents[2]
U5 = NewBoard("my-u5", "cortex-m33", 160e6, 768 * 1024, 2 * 1024 * 1024)


def scaled(board: NewBoard = U5, template: str = "stm32f746") -> tuple[DeviceSpec, str]:
    text = device_like(load_device(template), board)
    return parse_device(text, "new"), text


def test_a_new_board_has_its_own_sizes_and_nothing_of_the_templates_texts() -> None:
    spec, text = scaled()
    assert (spec.name, spec.title) == ("my-u5", "my-u5 (Cortex-M33, 160 MHz)")
    assert spec.region("ram").size_bytes == 768 * 1024
    assert spec.region("flash").size_bytes == 2 * 1024 * 1024
    assert spec.target().clock.value == 160e6
    for wrong in ("Cortex-M7", "216", "DS10916", "320 KB", "STM32F746"):
        assert wrong not in text
    assert all(number.provenance == "estimate" for _, number in spec.quantities())
    assert spec.training_budget.memory_bytes <= spec.ram_bytes


@pytest.mark.parametrize("core", [None, *CORES])
@pytest.mark.parametrize("template", ["stm32f746", "stm32h743"])
def test_every_core_gives_a_valid_file_whose_ranges_hold_the_templates(
    template: str, core: str | None
) -> None:
    like = load_device(template)
    spec, _ = scaled(NewBoard("b", core, None, None, None), template)
    same = core is None or CORES[core] == core_of(like)
    for direction in ("forward", "input_gradient", "weight_gradient"):
        ours = getattr(spec.target().throughput.pointwise_convolution, direction)
        theirs = getattr(like.target().throughput.pointwise_convolution, direction).interval
        if same:
            assert ours.value == pytest.approx(theirs.value, rel=1e-3)
        else:
            wider = (ours.high / ours.low) / (theirs.high / theirs.low)
            assert wider > 1.5, "a core tells little: the range is wider"


@pytest.mark.parametrize("core", CORES)
def test_rates_of_8_bits_are_the_templates_too_where_its_kernels_run(core: str) -> None:
    """They take the DSP extension, and an FPU for gradients; else the file says what holds."""
    like, (spec, text) = (
        load_device("stm32f746").target(),
        scaled(NewBoard("b", core, None, None, None)),
    )
    ours, theirs = spec.target().throughput_int8, like.throughput_int8
    assert theirs is not None
    if CORES[core].fp32_per_cycle < 1:
        assert ours is None
        assert "# Steps in 8 bits are priced as in 32" in text
        return
    assert ours is not None
    shares = {
        getattr(getattr(ours, kind), direction).value
        / getattr(getattr(theirs, kind), direction).value
        for kind in ("pointwise_convolution", "depthwise_convolution")
        for direction in ("forward", "input_gradient", "weight_gradient")
    }
    assert max(shares) == pytest.approx(min(shares), rel=1e-3)
    assert max(shares) <= 1


def test_what_no_board_can_be_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"^--new: 'My U5': small letters"):
        scaled(NewBoard("My U5", None, None, None, None))
    with pytest.raises(InputError, match=r"^--core: 'm33' is unknown; known are cortex-m0\+,"):
        scaled(NewBoard("b", "m33", None, None, None))
    with pytest.raises(InputError, match=r"^--like jetson-nano: runs a system of its own"):
        scaled(NewBoard("b", None, None, None, None), "jetson-nano")
    monkeypatch.chdir(tmp_path)
    assert main(["devices", "--core", "cortex-m33"]) == 2
    assert main(["devices", "--new", "b", "--ram", "-3"]) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "option", ["clock 0MHz", "ram 0KiB", "flash 0B", "clock 1e300Hz", "clock 1e-300Hz", "ram 1"]
)
def test_nothing_is_no_amount_of_a_new_board(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["devices", "--new", "mine", *f"--{option}".split()]) == 2
    assert re.search(r"is [\d.e+-]+ \w+; allowed is [\d,]+ to [\d,]+ ", capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["123", "1_000", "0x10", "null", "true", "no", "2024-01-01"])
def test_a_name_that_is_something_else_in_yaml_is_a_name(name: str) -> None:
    board, _ = scaled(NewBoard(name, None, None, None, None))
    assert board.name == name


def test_a_board_has_no_shipped_name() -> None:
    with pytest.raises(InputError, match="stm32h743 is the name of a shipped device"):
        scaled(NewBoard("stm32h743", None, None, None, None))


def test_banks_of_the_other_board_that_are_left_out_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["devices", "--new", "b", "--like", "stm32h743"]) == 0
    told = "the largest of the 5 banks of ram that stm32h743 has"
    assert f"note: --ram: 512KiB is taken, {told}" in capsys.readouterr().err
    assert told in Path("b.yaml").read_text()
    assert main(["devices", "--new", "c", "--like", "stm32h743", "--ram", "1MiB"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("words", "left_out"),
    [
        ("jetson-nano --new b", "a device"),
        ("--new b --compare mcunet-5fps", "--compare"),
        ("--new b --json", "--json"),
        ("--schema --json", "--json"),
        ("--schema jetson-nano", "a device"),
        ("--schema --new b", "--new"),
    ],
)
def test_nothing_that_is_asked_is_left_out(
    words: str,
    left_out: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["devices", *words.split()]) == 2
    assert f"does one thing alone; leave out {left_out}\n" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_command_writes_once_and_the_file_is_planned_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ["--like", "stm32f746", "--core", "cortex-m33", "--clock", "160MHz"]
    sizes = ["--ram", "768KiB", "--flash", "2MiB"]
    assert main(["devices", "--new", "my-u5", *asked, *sizes]) == 0
    assert capsys.readouterr().out.startswith("my-u5.yaml: an estimate scaled from stm32f746")
    assert Path("my-u5.yaml").read_text() == device_like(load_device("stm32f746"), U5)
    assert main(["devices", "--new", "my-u5"]) == 2
    assert "my-u5.yaml is there already" in capsys.readouterr().err
    assert main(["devices", "my-u5.yaml"]) == 0
    assert "768 KiB" in capsys.readouterr().out


# A file as people write it first.


def document() -> dict[str, Any]:
    return copy.deepcopy(yaml.safe_load((ROOT / "devices" / "stm32f746.yaml").read_text()))


def test_a_bare_value_is_an_estimate_with_the_range_of_one() -> None:
    tree = document()
    tree["memory"]["ram"]["size"] = "192KiB"
    tree["targets"]["cpu"]["bandwidth"] = "600MB/s"
    tree["training_budget"]["memory"] = "100KiB"
    spec = DeviceSpec.from_json(tree, "x")
    size, rate = spec.memory["ram"].size, spec.target().bandwidth
    assert (size.value, size.provenance, size.source) == (192 * 1024, "estimate", BARE)
    assert rate.interval.high == 3 * 600e6 == 9 * rate.interval.low


def test_all_mistakes_are_told_at_once_each_with_its_key_and_an_example(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = document()
    tree["clok"] = "160MHz"
    del tree["description"], tree["memory"]["ram"]["size"], tree["targets"]["cpu"]["clock"]
    tree["memory"]["flash"]["sise"] = tree["memory"]["flash"].pop("size")
    tree["targets"]["cpu"]["power"]["idle"] = "4 parsecs"
    with pytest.raises(Mistakes) as caught:
        DeviceSpec.from_json(tree, "x.yaml")
    lines = caught.value.lines
    keys = [line.split(": ")[1] for line in lines]
    assert sorted(keys) == sorted([
        "clok", "description", "memory.ram.size", "memory.flash.sise", "memory.flash.size",
        "targets.cpu.clock", "targets.cpu.power.idle.value",
    ])  # fmt: skip
    told = dict(zip(keys, lines, strict=True))
    assert "such as 192KiB, or better {value: 192KiB, provenance" in told["memory.ram.size"]
    assert "such as 160MHz" in told["targets.cpu.clock"]
    assert "did you mean 'size'?" in told["memory.flash.sise"]
    assert str(caught.value) == f"{lines[0]} (and 6 more)"
    path = tmp_path / "x.yaml"
    path.write_text(json.dumps(tree))
    assert main(["devices", str(path)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 7
    assert all(line.startswith(f"costsim: {path}: ") for line in errors)


BANKS = """
  sram1: {kind: ram, address: 0x20000000, size: 192KiB, available: 80%, holds: stack}
  sram2: {kind: ram, address: 0x20030000, size: 64KiB, available: 100%, holds: data}
  sram3: {kind: ram, address: 0x20040000, size: 512KiB, available: 100%, holds: data}
  apart: {kind: ram, address: 0x28000000, size: 16KiB, available: 100%, holds: data}
"""


def with_banks(text: str = BANKS) -> DeviceSpec:
    tree = document()
    flash = tree["memory"]["flash"]
    tree["memory"] = {**yaml.safe_load(text), "flash": flash}
    return DeviceSpec.from_json(tree, "x")


def test_banks_that_touch_are_one_block() -> None:
    spec = with_banks()
    assert spec.largest_block_bytes == int(0.8 * 192 * 1024) + (64 + 512) * 1024
    assert [len(run) for run in spec.ram_runs] == [3, 1]
    found = memory_map(spec)
    assert (found.arena.address, found.arena.size_bytes) == (0x20000000, 768 * 1024)
    assert found.stack == found.arena
    apart = with_banks(BANKS.replace("0x20040000", "0x20040008"))
    assert apart.largest_block_bytes == 512 * 1024
    assert memory_map(apart).arena.address == 0x20040008
    piece = BANKS.replace("size: 512KiB", "size: 512KiB, largest_block: 100KiB")
    assert with_banks(piece).largest_block_bytes == int(0.8 * 192 * 1024) + 64 * 1024


def test_the_page_of_the_schema_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "--schema"]) == 0
    page = capsys.readouterr().out
    assert page == schema_page() == (ROOT / "docs" / "device-files.md").read_text("utf-8")
    keys = {key for name in ("jetson-nano", "stm32h743") for key in _keys(document_of(name))}
    assert all(f"| `{key}` |" in page for key in keys)


def document_of(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "devices" / f"{name}.yaml").read_text())


NAMED = {"memory", "targets", "references", "kernels", "versions"}


def _keys(node: object, named: bool = False) -> set[str]:
    """All keys of a file but those that its author chose."""
    if not isinstance(node, dict):
        return set()
    inner = [key for name, part in node.items() for key in _keys(part, name in NAMED)]
    return {*inner, *(() if named else node)} - {"value", "low", "high", "provenance", "source"} | (
        {"source"} if "source" in node and "value" not in node else set()
    )


# Which to buy.


def test_boards_are_compared_in_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["devices", "--compare", "mcunet-5fps", "--resolution", "48", "stm32f746", "pi-zero-2"]
    assert main([*asked, "--json"]) == 0
    boards = {row["device"]: row for row in json.loads(capsys.readouterr().out)["boards"]}
    assert boards.keys() == {"stm32f746", "pi-zero-2"}
    small, large = boards["stm32f746"], boards["pi-zero-2"]
    assert small["fits"]
    assert small["flash_bytes"] > 0
    assert large["flash_bytes"] is None
    assert 0 < small["share"] <= 1
    assert small["task_s"] > large["task_s"]
    plan = ["plan", "--device", "stm32f746", "--resolution", "48", "--json"]
    assert main(plan) == 0
    planned = json.loads(capsys.readouterr().out)["predicted"]
    assert planned["memory"]["peak_bytes"] == small["peak_bytes"]
    assert planned["adaptation"]["latency_s"]["value"] == small["task_s"]


def test_a_comparison_of_one_device_prints_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "pi-zero-2", "--compare", "mcunet-5fps", "--resolution", "48"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^ ?pi-zero-2 +yes ", out, re.MULTILINE)
    assert "share of that of updating everything" in out
