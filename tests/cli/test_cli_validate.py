"""`costsim validate`: exit status, tables, files, and what it refuses."""

import json
import os
import re
import subprocess
import sys

import pytest

from costsim.cli import main
from costsim.hardware.results.record import Measurement, Validation


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    arguments = ["plan", "--device", "jetson-nano", "--resolution", "48", "--batch", "1"]
    assert main([*arguments, "--criterion", "l2_norm", "--bias", "--out", str(path)]) == 0
    return path


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


def changed(plan, tmp_path, change):
    document = json.loads(plan.read_text())
    change(document)
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(document))
    return str(path)


def test_a_right_plan_is_confirmed(plan, tmp_path, capsys, cache):
    out = tmp_path / "results"
    assert main(["validate", str(plan), "--steps", "4", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    predicted = json.loads(plan.read_text())["predicted"]
    for figure in (
        predicted["memory"]["kept_bytes"],
        predicted["memory"]["peak_bytes"],
        predicted["macs"]["forward"],
    ):
        (line,) = [one for one in printed.splitlines() if one.count(f" {figure:,}") == 2]
        assert line.split()[-2:] == ["0", "0"]
    assert "comparisons are within their tolerance" in printed
    measurement = Measurement.read(out / "measurement.json")
    validation = Validation.read(out / "validation.json")
    assert len(measurement.step_s) == 4
    assert validation.ok
    assert {one.owner for one in validation.comparisons} > {None}
    assert list((cache / "costsim" / "scratch").glob("*.json"))


def test_json_is_one_document_on_stdout(plan, tmp_path, capsys):
    path = tmp_path / "m.json"
    assert main(["validate", str(plan), "--steps", "1", "--json", "--measurement", str(path)]) == 0
    captured = capsys.readouterr()
    validation = Validation.from_json(json.loads(captured.out), "stdout")
    assert validation.ok
    assert validation.machine == Measurement.read(path).machine
    assert "costsim: note: " in captured.err
    times = [one for one in validation.comparisons if one.unit == "s"]
    assert [one.verdict for one in times] == ["informal"]


@pytest.mark.parametrize(
    ("section", "key", "told"),
    [
        ("memory", "kept_bytes", "kept"),
        ("memory", "gradient_bytes", "weight gradients"),
        ("memory", "optimizer_bytes", "optimizer state"),
        ("memory", "peak_bytes", "live peak"),
        ("macs", "weight_gradient", "weight_gradient MACs"),
    ],
)
def test_a_wrong_prediction_is_found_out(plan, tmp_path, capsys, section, key, told):
    def change(document):
        document["predicted"][section][key] -= 1

    assert main(["validate", changed(plan, tmp_path, change), "--steps", "1"]) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert re.search(r"1 of \d+ comparisons outside tolerance", printed)
    assert f"tolerance: {told}" in printed


@pytest.mark.parametrize("bits", ["8", "weights=8,activations=16"])
def test_a_plan_for_bits_that_torch_does_not_train_in_is_priced_again(bits, tmp_path, capsys):
    path = tmp_path / "plan.json"
    arguments = ["plan", "--device", "stm32f746", "--resolution", "48", "--bits", bits]
    assert main([*arguments, "--criterion", "l2_norm", "--out", str(path)]) == 0
    assert main(["validate", str(path), "--steps", "1"]) == 0
    assert "priced again for 32 bits" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("bits", "dtype"), [("16", "bfloat16"), pytest.param("64", "float64", marks=pytest.mark.slow)]
)
def test_a_plan_for_16_or_64_bits_runs_in_them(bits, dtype, tmp_path, capsys):
    path, found = tmp_path / "plan.json", tmp_path / "m.json"
    arguments = ["plan", "--device", "jetson-nano", "--resolution", "32", "--bits", bits]
    arguments += ["--batch", "3", "--micro-batch", "1"]
    assert main([*arguments, "--criterion", "l2_norm", "--out", str(path)]) == 0
    assert main(["validate", str(path), "--steps", "1", "--measurement", str(found)]) == 0
    assert "priced again" not in capsys.readouterr().out
    assert Measurement.read(found).dtype == dtype


@pytest.mark.parametrize("threads", [pytest.param("1", marks=pytest.mark.slow), "2"])
@pytest.mark.slow
def test_every_number_of_threads_has_its_own_scratch(threads, plan, cache):
    """In a process of its own: how many threads there are is said before torch loads."""
    command = [sys.executable, "-m", "costsim", "validate", str(plan), "--steps", "1"]
    done = subprocess.run(
        [*command, "--threads", threads, "--json"],
        env={key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    validation = Validation.from_json(json.loads(done.stdout), "stdout")
    assert validation.ok
    assert validation.machine.threads == int(threads)
    assert list((cache / "costsim" / "scratch").glob(f"*_{threads}-threads.json"))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["absent.json"], "absent.json: cannot be read"),
        (["PLAN", "--steps", "0"], "--steps is 0; at least 1 is needed"),
        (["PLAN", "--threads", "0"], "--threads is 0; at least 1 is needed"),
        (["PLAN", "--out", "absent/folder"], "--out: the folder absent does not exist"),
        (["PLAN", "--out", __file__], "is a file; a folder is needed"),
        (["PLAN", "--measurement", "absent/m.json"], "the folder absent does not exist"),
        (["PLAN", "--data", "absent.zip"], "absent.zip"),
        (["PLAN", "--weights", "absent.pth"], "absent.pth"),
    ],
)
def test_unusable_input_is_refused_in_one_line(plan, arguments, told, capsys):
    given = [str(plan) if argument == "PLAN" else argument for argument in arguments]
    assert main(["validate", *given]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.strip().splitlines()
    assert told in line


def test_a_plan_for_another_model_or_without_an_answer_is_refused(plan, tmp_path, capsys):
    def another(document):
        document["model"]["spec"] = "mbv2-w0.35"

    def infeasible(document):
        document["predicted"], document["layers"] = None, []
        document["solver"]["status"] = "infeasible"

    def twice(document):
        document["layers"][0]["channels"] = [0, 0]

    def beyond(document):
        document["layers"][0]["channels"] = [10_000]

    for change, told in (
        (another, "layers: layer"),
        (infeasible, "holds no plan"),
        (twice, "listed twice"),
        (beyond, "selectable"),
    ):
        assert main(["validate", changed(plan, tmp_path, change), "--steps", "1"]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert told in captured.err
        assert "changed.json" in captured.err
