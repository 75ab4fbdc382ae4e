"""Device files: what ships is complete and sourced, what is wrong is refused in one line."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from costsim.base.errors import InputError
from costsim.device import DeviceSpec, Interval, load_device, parse_device, shipped_devices
from costsim.device.quantity import (
    INTERVAL_FACTORS,
    Bytes,
    BytesPerSecond,
    Count,
    Hertz,
    Joules,
    MacsPerSecond,
    Quantity,
    Seconds,
    Share,
    Watts,
)
from costsim.device.target import ByteRates, MacRates
from costsim.ir.operators import WORK_KINDS

SHIPPED = shipped_devices()
FOLDER = Path(__file__).parents[2] / "devices"


def document(name: str = "pi-zero-2") -> dict[str, Any]:
    """A shipped file as parsed YAML, to break."""
    parsed: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    return parsed


def put(tree: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        tree = tree[part]
    tree[last] = value


def refused(text: str, source: str = "x.yaml") -> str:
    with pytest.raises(InputError) as caught:
        parse_device(text, source)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{source}: ")
    return message


# What ships.


def test_every_file_of_the_folder_ships() -> None:
    assert tuple(sorted(file.stem for file in FOLDER.glob("*.yaml"))) == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_every_number_of_a_shipped_device_has_a_source(name: str) -> None:
    spec = load_device(name)
    assert spec.name == name
    keys = dict(spec.quantities())
    for key, quantity in keys.items():
        assert len(quantity.source) > 10, key
        assert quantity.provenance != "calibrated", key
    assert sum(spec.provenance_counts().values()) == len(keys)


@pytest.mark.parametrize("name", SHIPPED)
def test_no_number_of_a_shipped_file_is_outside_a_sourced_mapping(name: str) -> None:
    def walk(node: Any, path: str) -> None:
        if isinstance(node, dict):
            for key, item in node.items():
                if key in ("value", "low", "high"):
                    assert node["source"], path
                elif path != "bits":
                    assert not isinstance(item, int | float), f"{path}.{key}"
                walk(item, key)

    walk(document(name), "")


@pytest.mark.parametrize("name", SHIPPED)
def test_every_kind_and_direction_has_a_throughput_within_the_peak(name: str) -> None:
    for target in load_device(name).targets.values():
        for kind in WORK_KINDS:
            rates = getattr(target.throughput, kind)
            assert isinstance(rates, ByteRates if kind == "elementwise" else MacRates)
            for direction in type(rates).model_fields:
                rate = getattr(rates, direction).interval
                assert 0 < rate.low <= rate.value <= rate.high
            if isinstance(rates, MacRates):
                assert rates.forward.value <= target.peak.fp32.value


@pytest.mark.parametrize("name", SHIPPED)
def test_a_depthwise_mac_costs_several_times_a_pointwise_mac(name: str) -> None:
    for target in load_device(name).targets.values():
        for direction in MacRates.model_fields:
            depthwise = getattr(target.throughput.depthwise_convolution, direction).value
            pointwise = getattr(target.throughput.pointwise_convolution, direction).value
            assert pointwise >= 3 * depthwise


@pytest.mark.parametrize("name", SHIPPED)
def test_powers_and_budgets_are_plausible(name: str) -> None:
    spec = load_device(name)
    assert 0 < spec.training_budget.memory_bytes <= spec.ram_bytes
    assert spec.largest_block_bytes <= spec.ram_bytes
    for target in spec.targets.values():
        assert target.power.idle.value < target.power.memory.value <= target.power.compute.value


def test_known_sizes_and_clocks() -> None:
    f746, h743 = load_device("stm32f746"), load_device("stm32h743")
    nano, pi = load_device("jetson-nano"), load_device("pi-zero-2")
    assert f746.memory["ram"].size_bytes == 320 * 1024
    assert f746.memory["flash"].size_bytes == 1024 * 1024
    assert f746.target().clock.value == 216e6
    assert h743.largest_block_bytes == 512 * 1024
    assert h743.target().clock.value == 480e6
    assert h743.references["tinyengine_int8_mbv2-w0.35_forward"].value == 0.124
    assert h743.swap is None
    assert set(nano.targets) == {"cpu", "gpu"}
    # 128 cores, one fused multiply-add a cycle; two FLOPs a MAC.
    assert nano.target("gpu").peak.fp32.value == pytest.approx(128 * 921.6e6, rel=0.01)
    assert pi.target().peak.fp32.value == 4 * 1e9 * 4
    for paper_board in (nano, pi):
        budget = paper_board.training_budget
        assert (budget.memory_bytes, budget.macs_share.value) == (1_000_000, 0.15)


def test_microcontroller_rates_follow_from_clock_and_counted_instructions() -> None:
    counted = {"forward": 2.9, "weight_gradient": 3.6, "input_gradient": 2.5}
    cycles_per_instruction = 1.5
    for name in ("stm32f746", "stm32h743"):
        target = load_device(name).target()
        for direction, instructions in counted.items():
            rate = getattr(target.throughput.pointwise_convolution, direction).value
            expected = target.clock.value / (instructions * cycles_per_instruction)
            assert rate == pytest.approx(expected, rel=0.02)


# A value.


@pytest.mark.parametrize("name", SHIPPED)
def test_json_round_trip(name: str) -> None:
    spec = load_device(name)
    again = DeviceSpec.from_json(json.loads(json.dumps(spec.to_json(), allow_nan=False)))
    assert again == spec
    assert hash(again) == hash(spec)
    assert list(again.targets) == list(spec.targets)


def test_a_device_cannot_be_changed() -> None:
    spec = load_device("pi-zero-2")
    with pytest.raises(ValidationError):
        spec.name = "other"
    with pytest.raises(TypeError):
        spec.targets["cpu"] = spec.target()  # type: ignore[index]


def test_an_unknown_target_lists_the_known() -> None:
    with pytest.raises(InputError, match=r"no target 'npu'; allowed are gpu, cpu"):
        load_device("jetson-nano").target("npu")


# Finding a device.


def test_name_with_suffix_and_path_give_the_same_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_name = load_device("jetson-nano")
    monkeypatch.chdir(FOLDER.parent)
    assert load_device("devices/jetson-nano.yaml") == by_name
    assert load_device(Path("devices/jetson-nano.yaml")) == by_name
    monkeypatch.chdir(tmp_path)
    assert load_device("jetson-nano.yaml") == by_name
    with pytest.raises(InputError, match="neither a file nor a shipped device"):
        load_device("devices/jetson-nano.yaml")


def test_an_unknown_device_lists_the_shipped_ones() -> None:
    with pytest.raises(InputError) as caught:
        load_device("jetson-nono")
    assert "'jetson-nono'" in str(caught.value)
    assert all(name in str(caught.value) for name in SHIPPED)


def test_a_folder_is_not_a_device(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_device(tmp_path)


# Mistakes: (dotted key, wrong value, words the message must have).

MISTAKES: Mapping[str, tuple[str, Any, tuple[str, ...]]] = {
    "unknown unit": ("memory.ram.size.value", "12 parsecs", ("'parsecs'", "12 parsecs", "KiB")),
    "no unit of this kind": ("targets.cpu.clock.value", "3KiB", ("'KiB'", "MHz")),
    "not a number": ("memory.ram.size.value", "plenty", ("plenty", "KiB")),
    "negative text": ("targets.cpu.clock.value", "-1GHz", ("-1GHz", "negative")),
    "negative number": ("targets.cpu.clock.value", -5, ("-5", "above zero")),
    "zero": ("targets.cpu.throughput.linear.forward.value", "0GMAC/s", ("above zero",)),
    "zero number": ("targets.cpu.bandwidth.value", 0, ("above zero", "GB/s")),
    "nan": ("targets.cpu.bandwidth.value", float("nan"), ("nan", "finite")),
    "infinite": ("targets.cpu.bandwidth.value", float("inf"), ("inf", "finite")),
    "overflow": ("targets.cpu.bandwidth.value", "1e999", ("1e999", "finite")),
    "huge integer": ("targets.cpu.bandwidth.value", 10**400, ("finite",)),
    "a bare no": ("targets.cpu.power.idle.value", False, ("False", "mW")),
    "a list": ("targets.cpu.power.idle.value", [1], ("[1]", "mW")),
    "null": ("targets.cpu.power.idle.value", None, ("number",)),
    "empty source": ("memory.ram.size.source", " ", ("empty",)),
    "unknown provenance": ("memory.ram.size.provenance", "rumour", ("rumour", "datasheet")),
    "calibrated without residuals": (
        "targets.cpu.clock.provenance",
        "calibrated",
        ("low and high",),
    ),
    "low without high": ("targets.cpu.clock.low", "1MHz", ("together",)),
    "range without its value": ("targets.cpu.overhead.high", "1us", ("not in order",)),
    "share above one": ("memory.ram.available.value", "120%", ("120%", "outside 0 to 1")),
    "part of a core": ("targets.cpu.threads.value", 2.5, ("2.5", "whole")),
    "a number where text belongs": ("title", 3, ("3", "string")),
    "a truth value where text belongs": ("title", False, ("False", "string")),
    "odd name": ("name", "My Board!", ("My Board!",)),
    "unknown kind of memory": ("memory.ram.kind", "core", ("core", "'flash'")),
    "odd bit width": ("bits.weights", [7], ("7", "32")),
    "bits as text": ("bits.weights", "32", ("'32'",)),
    "empty bits": ("bits.weights", [], ("at least 1",)),
    "no memory": ("memory", {}, ("ram",)),
    "no targets": ("targets", {}, ("at least one",)),
    "a target that is not a mapping": ("targets.cpu", 3, ("3", "mapping", "throughput")),
    "unknown default target": ("default_target", "npu", ("'npu'", "cpu")),
    "flash that is not there": ("placement.frozen_weights", "flash", ("no flash region",)),
    "updates in flash": ("placement.updated_weights", "flash", ("flash", "'ram'")),
    "budget above RAM": ("training_budget.memory.value", "1GB", ("more than",)),
    "unknown accounting": ("training_budget.accounting", "guess", ("guess", "'peak'")),
    "faster than the peak": (
        "targets.cpu.throughput.linear.forward",
        {"value": "17GMAC/s", "provenance": "estimate", "source": "a wish, nothing else"},
        ("17 GMAC/s", "16 GMAC/s"),
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_with_file_key_and_what_is_allowed(mistake: str) -> None:
    key, value, words = MISTAKES[mistake]
    tree = document()
    put(tree, key, value)
    with pytest.raises(InputError) as caught:
        DeviceSpec.from_json(tree, "devices/x.yaml")
    message = str(caught.value)
    assert "\n" not in message
    # A mistake about two keys is told at the mapping that holds both.
    parent = key.rpartition(".")[0]
    places = [f"{key}: ", f"{key}.", *([f"{parent}: "] if parent else [])]
    assert any(message.startswith(f"devices/x.yaml: {place}") for place in places)
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("path", "near"),
    [("memory.ram.sise", "size"), ("targets.cpu.bandwith", "bandwidth"), ("tittle", "title")],
)
def test_an_unknown_key_is_named_with_the_closest(path: str, near: str) -> None:
    tree = document()
    put(tree, path, "1")
    with pytest.raises(InputError, match=rf"^x: {path}: unknown key; did you mean '{near}'\? all"):
        DeviceSpec.from_json(tree, "x")


def test_a_misspelt_key_is_told_before_the_missing_one() -> None:
    tree = document()
    tree["memory"]["ram"]["sise"] = tree["memory"]["ram"].pop("size")
    with pytest.raises(InputError, match=r"^x: memory\.ram\.sise: unknown key"):
        DeviceSpec.from_json(tree, "x")


@pytest.mark.parametrize("kind", ["throughput", *(f"throughput.{kind}" for kind in WORK_KINDS)])
def test_a_target_without_a_throughput_is_refused(kind: str) -> None:
    tree = document()
    parent, _, last = f"targets.cpu.{kind}".rpartition(".")
    node = tree
    for part in parent.split("."):
        node = node[part]
    del node[last]
    with pytest.raises(InputError, match=rf"^x: targets\.cpu\.{kind}: missing; a mapping with "):
        DeviceSpec.from_json(tree, "x")


def test_every_required_key_of_a_number_is_asked_for() -> None:
    for key in ("value", "provenance", "source"):
        tree = document()
        del tree["memory"]["ram"]["size"][key]
        with pytest.raises(InputError, match=rf"^x: memory\.ram\.size\.{key}: missing"):
            DeviceSpec.from_json(tree, "x")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("empty",)),
        ("- a\n- b", ("list", "mapping")),
        ("just text", ("str", "mapping")),
        ("3", ("int", "mapping")),
        ("name: a\nname: b", ("line 2", "'name'", "twice")),
        ("memory:\n  ram: {size: 1, size: 2}", ("line 2", "'size'", "twice")),
        ("name: {", ("line 1",)),
        ("name: *nowhere", ("nowhere",)),
        ("name: !!python/object/apply:os.getcwd []", ("line 1",)),
        ("1: 2", ("key 1", "not text")),
        ("no: 2", ("key False", "not text")),
        ("[a]: 2", ("not text",)),
        ("a: \x00", ("not YAML",)),
        ("schema: costsim.device/9", ("costsim.device/9", "costsim.device/1")),
        ("memory: &m {ram: *m}", ("'m'", "inside what it stands for")),
        ("a: " + "[" * 5000, ("line 1", "nested deeper")),
    ],
)
def test_text_that_is_no_device(text: str, words: tuple[str, ...]) -> None:
    message = refused(text)
    for word in words:
        assert word in message


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(InputError, match=r"^x: is not YAML"):
        parse_device(b"name: \xff\xfe\xfa", "x")


def test_braces_in_a_file_do_not_break_the_message() -> None:
    assert "{nothing}" in refused("name: x\n'{nothing}': 1")


# Numbers with units.


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Bytes, "320KiB", 320 * 1024),
        (Bytes, "1MB", 1e6),
        (Hertz, "216MHz", 216e6),
        (Hertz, "1.43 GHz", 1.43e9),
        (BytesPerSecond, "25.6GB/s", 25.6e9),
        (BytesPerSecond, "2KiB/s", 2048),
        (MacsPerSecond, "0.9GMAC/s", 0.9e9),
        (Seconds, "120us", 120e-6),
        (Watts, "2.1W", 2.1),
        (Watts, "400mW", 0.4),
        (Joules, "1.2kJ", 1200),
        (Share, "15%", 0.15),
        (Share, "0.15", 0.15),
        (Count, "4", 4),
        # YAML hands these over as text; they are numbers in the base unit all the same.
        (MacsPerSecond, "1.08e8", 1.08e8),
        (MacsPerSecond, "108e6", 108e6),
        (MacsPerSecond, 108_000_000, 108e6),
    ],
)
def test_units(kind: type[Quantity], text: str | int, value: float) -> None:
    assert kind.read(text) == pytest.approx(value, rel=1e-12)


@given(st.floats(1e-3, 1e15), st.sampled_from(["B/s", "kB/s", "MB/s", "GB/s", "KiB/s", ""]))
def test_a_bandwidth_is_its_number_times_its_unit(number: float, unit: str) -> None:
    value = BytesPerSecond.read(f"{number!r}{unit}")
    assert value == pytest.approx(number * BytesPerSecond.scales[unit])


@given(st.floats(1e-6, 1e12), st.sampled_from(sorted(INTERVAL_FACTORS)))
def test_an_interval_is_as_wide_as_its_provenance(value: float, provenance: str) -> None:
    quantity = MacsPerSecond.model_validate(
        {"value": value, "provenance": provenance, "source": "a test"}
    )
    factor = INTERVAL_FACTORS[provenance]
    assert quantity.interval == Interval(value, value / factor, value * factor)


def test_a_number_s_own_range_goes_before_its_provenance() -> None:
    quantity = Watts.model_validate(
        {"value": "2W", "low": "1.9W", "high": "2.2W", "provenance": "calibrated", "source": "me"}
    )
    assert quantity.interval == Interval(2.0, 1.9, 2.2)


def test_published_numbers_are_trusted_more_than_derived_ones() -> None:
    assert INTERVAL_FACTORS["published"] < INTERVAL_FACTORS["estimate"]
    assert INTERVAL_FACTORS["published"] < INTERVAL_FACTORS["datasheet"]


# Weight of the import.


def test_devices_need_no_torch() -> None:
    code = (
        "import sys, costsim.cli.devices as d; "
        "from costsim.device import load_device; load_device('jetson-nano'); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
