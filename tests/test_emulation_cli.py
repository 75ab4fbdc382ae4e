"""`--on unicorn:cortex-m7` on the command line: tables, files, exit status, refusals."""

import json
from pathlib import Path

import pytest
from emulating import needs_emulator
from training import MODEL, write_network

from costsim.cli import main
from costsim.measurement.record import Measurement, Validation
from costsim.planfile import read_plan

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
    assert page.count("<svg") == 2
    assert "Planned and touched memory over one training step" in page
    assert "planned and found differ at 0." in page
    assert "http-equiv" not in page
    assert "<script" not in page


def test_json_is_one_document(plan, capsys) -> None:
    assert main(["validate", plan, "--on", UNICORN, "--steps", "1", "--json"]) == 0
    captured = capsys.readouterr()
    assert Validation.from_json(json.loads(captured.out), "stdout").ok
    assert "costsim: note: emulated, not measured" in captured.err


def test_a_measurement_of_it_says_emulated_and_holds_no_seconds(plan, capsys) -> None:
    assert main(["measure", plan, "--on", UNICORN, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    (run,) = document["runs"]
    outcome, (beside,) = run["outcome"], document["comparisons"]
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


def test_a_plan_in_other_bits_is_emitted_in_32(folder, tmp_path, capsys) -> None:
    path = tmp_path / "plan.json"
    arguments = ["--device", "stm32f746", "--bits", "8", "--ways", "3", "--shots", "2"]
    given = ["plan", "--model", MODEL, "--macs", "60%", *arguments, "--out", str(path)]
    assert main(given) == 0
    capsys.readouterr()
    assert main(["validate", str(path), "--on", UNICORN, "--steps", "1"]) == 0
    assert "emitted and priced in 32 bits" in " ".join(capsys.readouterr().out.split())
