"""`--on unicorn:cortex-m7` on the command line: tables, files, exit status, refusals."""

import json
from pathlib import Path

import pytest
from by_default import by_default
from emulating import NARROW, needs_emulator
from training import MODEL, write_network

from costsim.cli import main
from costsim.hardware.results.record import Measurement, Validation
from costsim.solving.planfile import read_plan

UNICORN = "unicorn:cortex-m7"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    needs_emulator()
    found = tmp_path_factory.mktemp("plan")
    write_network(found)
    return found


@pytest.fixture(autouse=True)
def here(folder, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))


@pytest.fixture(scope="module")
def plan(folder) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        arguments = ["--device", "stm32f746", "--bits", "32", "--ways", "3", "--shots", "2"]
        given = ["plan", "--model", MODEL, "--macs", "60%", *arguments, "--bias"]
        assert main([*given, "--out", "plan.json"]) == 0
    return str(folder / "plan.json")


def test_a_plan_is_confirmed_on_the_emulated_core(plan, tmp_path, capsys) -> None:
    report = tmp_path / "report.html"
    arguments = ["validate", plan, "--on", UNICORN, "--steps", "3"]
    assert main([*arguments, "--out", str(tmp_path), "--report", str(report)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    memory = read_plan(Path(plan)).predicted.memory
    for told in (
        f"arena, bytes {memory.arena_bytes:,} {memory.arena_bytes:,} 0 0",
        f"live peak, bytes {memory.peak_bytes:,}",
        "comparisons are within their tolerance",
        "emulated, not measured",
        "class means, bytes 640 640 0 0",
        "and emulated on a Cortex-M7 with the memories of stm32f746",
    ):
        assert told in printed, told
    validation = Validation.read(tmp_path / "validation.json")
    measurement = Measurement.read(tmp_path / "measurement.json")
    assert (validation.ok, validation.how) == (True, "emulated")
    assert "measured" not in printed.replace("not measured", "")
    assert measurement.step_s == ()
    assert measurement.kept_bytes == memory.kept_bytes
    assert "zig cc" in measurement.versions["compiler"] or "gcc" in measurement.versions["compiler"]
    page = report.read_text()
    assert page.count("<svg") == 4  # two pictures in two widths
    assert all('class="mark"' in one for one in page.split("<svg")[1:])
    assert "Planned and touched memory over one training step" in page
    assert "planned and found differ at 0." in page
    assert "http-equiv" not in page
    by_layer = validation.by_owner()
    for owner, found in by_layer.items():
        if "forward MACs" in found:
            seconds = found["seconds (emulated, not measured)"]
            assert seconds.verdict == "informal"
            assert seconds.measured > 0
            assert f"<td>{owner}</td>" in page
    (whole,) = [c for c in validation.totals() if c.quantity.startswith("step (emulated")]
    layers = sum(found["seconds (emulated, not measured)"].measured for found in by_layer.values()
                 if "seconds (emulated, not measured)" in found)  # fmt: skip
    assert 0.9 * whole.measured < layers <= whole.measured
    assert "<script" not in page


@pytest.mark.parametrize(
    "key",
    by_default(
        ["memory.arena_bytes", "memory.kept_bytes", "macs.unpadded"], ["memory.arena_bytes"]
    ),
)
def test_a_prediction_that_is_off_is_noticed(plan, tmp_path, key, capsys) -> None:
    document = json.loads(Path(plan).read_text())
    group, _, name = key.partition(".")
    document["predicted"][group][name] += 4
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(document))
    assert main(["validate", str(path), "--on", UNICORN, "--steps", "1"]) == 1
    assert "1 of " in " ".join(capsys.readouterr().out.split())


def test_json_is_one_document(plan, capsys) -> None:
    assert main(["validate", plan, "--on", UNICORN, "--steps", "1", "--json"]) == 0
    captured = capsys.readouterr()
    assert Validation.from_json(json.loads(captured.out), "stdout").ok
    assert "costsim: note: emulated, not measured" in captured.err


def test_a_measurement_of_it_says_emulated_and_holds_no_seconds(plan, capsys) -> None:
    assert main(["measure", plan, "--on", UNICORN, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    (run,) = document["runs"]
    outcome, (beside, arena) = run["outcome"], document["comparisons"]
    assert (arena["quantity"], arena["predicted"]) == ("arena", arena["measured"])
    assert (outcome["how"], outcome["measurement"]["step_s"]) == ("emulated", [])
    assert beside["predicted"] == beside["measured"]
    assert 0 < outcome["counts"]["emulated_step_low_s"] <= outcome["counts"]["emulated_step_s"]
    assert "were not measured" in outcome["notes"][0]


def test_too_little_memory_is_an_answer(plan, capsys) -> None:
    for command in (["validate", plan], ["measure", plan]):
        assert main([*command, "--on", f"{UNICORN}?ram=4KiB"]) == 1
        told = capsys.readouterr().err
        assert "does not fit in the RAM of 4 KiB of stm32f746" in told
        assert "bytes too many" in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--on", "qemu:mps2-an500"], "allowed is unicorn:cortex-m7"),
        (["--on", "local"], "allowed is unicorn:cortex-m7"),
        (["--on", "tape:1"], "target 'tape:1' is unknown"),
        (["--on", f"{UNICORN}?device=jetson-nano"], "with an address are needed to emulate it"),
        (["--on", UNICORN, "--report", "absent/page.html"], "absent does not exist"),
        (["--report", "page.html"], "give --on"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(plan, arguments, told, capsys) -> None:
    assert main(["validate", plan, *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.strip().splitlines()
    assert told in line


# In 8 bits, as the microcontrollers' own files say.


@pytest.fixture(scope="module")
def narrow(folder) -> str:
    """A plan for the bit widths that are usual on the device: 8 of weights and activations."""
    path = folder / "narrow.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        arguments = ["--device", "stm32f746", "--model", MODEL, "--macs", "60%"]
        assert main(["plan", *arguments, "--ways", "3", "--shots", "1", "--out", str(path)]) == 0
    assert read_plan(path).step.bits == NARROW
    return str(path)


def test_a_plan_in_8_bits_is_confirmed_bit_by_bit(narrow, capsys, tmp_path) -> None:
    arguments = ["validate", narrow, "--on", UNICORN, "--steps", "2", "--out", str(tmp_path)]
    assert main(arguments) == 0
    printed = " ".join(capsys.readouterr().out.split())
    memory = read_plan(Path(narrow)).predicted.memory
    for told in (
        f"arena, bytes {memory.arena_bytes:,} {memory.arena_bytes:,} 0 0",
        f"live peak, bytes {memory.peak_bytes:,} {memory.peak_bytes:,} 0 0",
        "losses equal to the reference's",
        "scales of 8 bits are taken from",
        "off that of PyTorch in 32 bits",
        "updated integers moved",
    ):
        assert told in printed, told
    measurement = Measurement.read(tmp_path / "measurement.json")
    assert measurement.dtype == "int8"
    validation = Validation.read(tmp_path / "validation.json")
    (losses,) = [c for c in validation.comparisons if c.quantity.startswith("losses equal")]
    assert (losses.predicted, losses.measured, losses.verdict) == (2, 2, "within")
    (weights,) = [c for c in validation.comparisons if c.quantity.startswith("updated integers")]
    elements = memory.updated_weight_bytes  # of 8 bits each, and no bias
    assert (weights.predicted, weights.measured, weights.verdict) == (elements, elements, "within")
    informal = [c for c in validation.comparisons if "in 32 bits" in c.quantity]
    assert informal
    assert {c.verdict for c in informal} == {"informal"}


@pytest.mark.slow
def test_seconds_in_8_bits_are_of_the_kernels_that_are_emitted(tmp_path) -> None:
    """The device's rates are counted of them, and seconds follow by the same issue rules."""
    plan, out = str(tmp_path / "plan.json"), tmp_path / "validation.json"
    size = ["--model", "mcunet-5fps", "--resolution", "128", "--ways", "4", "--shots", "2"]
    assert main(["plan", "--device", "stm32f746", *size, "--out", plan]) == 0
    assert read_plan(Path(plan)).step.bits == NARROW
    assert main(["validate", plan, "--on", UNICORN, "--steps", "1", "--validation", str(out)]) == 0
    found = Validation.read(out).comparisons
    (step,) = [c for c in found if c.quantity.startswith("step (emulated")]
    assert step.predicted == pytest.approx(step.measured, rel=0.25)


def test_a_measurement_in_8_bits_is_beside_the_prediction_in_8_bits(narrow, capsys) -> None:
    assert main(["measure", narrow, "--on", UNICORN, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    (run,), (beside, arena) = document["runs"], document["comparisons"]
    assert (arena["quantity"], arena["predicted"]) == ("arena", arena["measured"])
    memory = read_plan(Path(narrow)).predicted.memory
    assert run["outcome"]["measurement"]["dtype"] == "int8"
    assert run["outcome"]["counts"]["arena_bytes"] == memory.arena_bytes
    assert beside["predicted"] == beside["measured"] == memory.peak_bytes
    assert document["predicted_own"]["peak_bytes"] == memory.peak_bytes
    assert document["predicted"]["peak_bytes"] > memory.peak_bytes
    assert not any("32 bits" in note for note in document["notes"])


SWISH = """
from torch import nn


def make():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Hardswish(), nn.Conv2d(4, 4, 3), nn.Flatten())


make.resolution = 8
"""
NO_KERNEL = (
    "call '1' (after layer '0'): operator 'hard_swish' has no 8-bit kernel; plan with --bits 32"
)


def swish_plan(folder: Path, *more: str) -> tuple[int, Path]:
    """A plan for a network with an operator that has no 8-bit kernel."""
    (folder / "swish_net_of_tests.py").write_text(SWISH)
    path = folder / "swish.json"
    model = ["--model", "swish_net_of_tests:make", "--resolution", "8", "--macs", "90%"]
    arguments = ["--device", "stm32f746", "--ways", "2", "--shots", "1", "--out", str(path)]
    return main(["plan", *model, *arguments, *more]), path


def test_planning_for_a_microcontroller_names_what_there_is_no_kernel_for(folder, capsys) -> None:
    status, path = swish_plan(folder)
    captured = capsys.readouterr()
    (line,) = captured.err.strip().splitlines()
    assert (status, captured.out, path.exists()) == (2, "", False)
    assert "on stm32f746, a microcontroller: " + NO_KERNEL in line
    status, path = swish_plan(folder, "--bits", "32")
    assert (status, path.exists()) == (0, True)


def test_what_there_is_no_c_for_is_named_and_never_run_in_32_bits(folder, tmp_path, capsys) -> None:
    _, plan = swish_plan(folder, "--bits", "32")
    document = json.loads(plan.read_text())
    capsys.readouterr()
    for bits, optimizer, told in (
        ((8, 8, 32, 32), "sgd", NO_KERNEL),
        ((8, 8, 32, 32), "adam", "optimizer 'adam' has no C kernel for 8-bit weights"),
        ((8, 8, 8, 8), "sgd", "8-bit gradients; C is emitted for 32 bits, and for 8-bit weights"),
        ((16, 16, 16, 16), "sgd", "the step has 16-bit weights"),
    ):
        names = ("weights", "activations", "gradients", "optimizer")
        document["step"] |= {"bits": dict(zip(names, bits, strict=True)), "optimizer": optimizer}
        document["recipe"]["optimizer"] = optimizer
        path = tmp_path / "other.json"
        path.write_text(json.dumps(document))
        for command in ("validate", "measure"):
            assert main([command, str(path), "--on", UNICORN]) == 2
            captured = capsys.readouterr()
            (line,) = captured.err.strip().splitlines()
            assert told in line
