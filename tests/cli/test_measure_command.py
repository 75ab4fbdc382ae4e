"""`costsim measure`: tables, files, exit status, several devices, what is kept when one fails."""

import json
import re
import signal
import statistics
import threading

import pytest
from calibrating import CONDITIONS
from fork_server import PIPE, start
from ssh_device import assert_nothing_is_left, device
from targeting import FOREVER, fork_jobs, write_plan
from waiting import until

from costsim.base.errors import InputError
from costsim.cli import main
from costsim.device import Calibration, DeviceSpec, Law, load_device
from costsim.hardware.calibration.conditions import describe_conditions
from costsim.hardware.calibration.device_file import write_device
from costsim.hardware.results.measurement_file import Failure, MeasurementFile, predict
from costsim.hardware.ssh.shipment import plan_job
from costsim.ir.program import compile_program
from costsim.pricing.cost import price
from costsim.solving.planfile import read_plan


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    return write_plan(tmp_path_factory.mktemp("plan"))


@pytest.fixture(autouse=True)
def forked(monkeypatch):
    fork_jobs(monkeypatch)


@pytest.fixture
def there(tmp_path):
    with device(tmp_path / "device") as found:
        yield found


def on(device):
    """The options that make `device` a target."""
    return [
        *("--on", f"ssh://me@127.0.0.1:{device.port}", "--identity", str(device.identity)),
        *("--known-hosts", str(device.known_hosts), "--trust-new-host"),
    ]


def test_predicted_stands_beside_measured(plan, tmp_path, capsys):
    out = tmp_path / "measured.json"
    arguments = ["measure", str(plan), "--steps", "4", "--repeats", "2", "--out", str(out)]
    assert main([*arguments, "--json"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    rows = {row["quantity"]: row for row in document.pop("comparisons")}
    found = MeasurementFile.read(out)
    assert document == found.to_json()
    assert found.plan_file() == read_plan(plan)
    assert len(found.runs) == 2
    assert {run.outcome.measurement.machine.threads for run in found.runs} == {1}
    assert not [note for note in document["notes"] if "--threads" in note]
    samples = [s for run in found.runs for s in run.outcome.measurement.step_s]
    medians = [run.outcome.measurement.median_s for run in found.runs]
    assert len(samples) == 2 * 4
    predicted = read_plan(plan).predicted
    # Of one thread, so of the size of a step; which of the two is greater is the machine's affair.
    assert 0 < rows["processor"]["measured"] < 10 * max(samples)
    step = rows["step"]
    assert step["measured"] == statistics.median(samples)
    assert step["predicted"] == predicted.latency_s.step
    assert step["floor"] == (max(medians) - min(medians)) / step["measured"]
    assert step["ratio"] is step["holds"] is None  # this machine is no Jetson
    assert "threads 1, not 128" in found.unlike["local"]
    assert "the prediction is for other conditions: threads 1, not 128" in captured.err
    assert rows["live peak"]["measured"] == rows["live peak"]["predicted"]
    assert rows["live peak"]["holds"]
    told = [note for run in found.runs for note in run.outcome.notes]
    assert any("no energy counter" in note for note in told) or "energy (RAPL)" in rows


def test_resumed_it_runs_what_is_missing_and_keeps_what_is_there(plan, tmp_path, capsys):
    out = tmp_path / "measured.json"
    asked = ["measure", str(plan), "--steps", "2", "--out", str(out), "--resume"]
    assert main(asked) == 0
    (first,) = MeasurementFile.read(out).runs
    assert main([*asked, "--repeats", "2"]) == 0
    runs = MeasurementFile.read(out).runs
    assert len(runs) == 2
    assert runs[0] == first
    before = out.read_bytes()
    assert main([*asked, "--repeats", "2"]) == 0  # nothing is missing
    assert out.read_bytes() == before
    capsys.readouterr()
    for other in (["--steps", "3"], ["--device", "pi-zero-2"]):
        assert main([*asked, *other]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith(f"costsim: {out}: ")
        assert "is not that of these measurements" in line
    assert main(["measure", str(plan), "--resume"]) == 2
    assert "--resume: nothing to go on with" in capsys.readouterr().err
    assert out.read_bytes() == before


def test_running_out_of_memory_is_the_answer_no_and_resumed_it_is_tried_again(
    plan, tmp_path, capsys
):
    out = tmp_path / "measured.json"
    asked = ["measure", str(plan), "--steps", "2", "--out", str(out), "--resume"]
    assert main([*asked, "--memory-limit", "64KiB"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.strip().splitlines()
    assert line.startswith("costsim: local: out of memory within 64 KiB, as predicted: ")
    found = MeasurementFile.read(out)
    (failure,) = found.failures
    assert (failure.reason, failure.predicted) == ("memory", True)
    whole = found.model_copy(
        update={"asked": found.asked.model_copy(update={"memory_limit_bytes": None})}
    )  # as if there were more now
    whole.write(out)
    assert main(asked) == 0
    assert (len(MeasurementFile.read(out).runs), MeasurementFile.read(out).failures) == (1, ())


def test_a_person_gets_a_table(plan, capsys, monkeypatch, tmp_path):
    """With joules here: from a plug-in, whose meter always shows three watts."""
    (tmp_path / "three_watts.py").write_text(
        "class Meter:\n    name = 'bench'\n    def watts(self): return 3.0\n"
        "def find(): return [Meter()]\n"
    )
    info = tmp_path / "three_watts-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: three-watts\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[costsim.energy_counters]\nbench = three_watts:find\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    out = tmp_path / "measured.json"
    assert main(["measure", str(plan), "--steps", "4", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "mcunet-5fps on local" in printed
    assert "predicted for jetson-nano" in " ".join(printed.split())
    lines = {line.split()[0]: line for line in printed.splitlines() if line.strip()}
    for word in ("step", "live", "energy"):
        assert word in lines
    assert lines["live"].split()[-2:] == ["yes", "-"]
    assert lines["step"].split()[-3:] == ["-", "-", "-"]
    flat = " ".join(printed.split())
    assert "local is not jetson-nano (threads 1, not 128" in flat
    assert "seconds and joules are shown side by side, not judged" in flat
    ((reading,),) = [run.outcome.energy for run in MeasurementFile.read(out).runs]
    assert (reading.source, reading.counter) == ("bench", "bench")
    assert reading.total_j == pytest.approx(3.0 * reading.seconds, rel=0.05)
    assert reading.idle_w == pytest.approx(3.0, rel=0.05)
    assert reading.seconds > 1.0
    assert "joules are of the whole machine" in " ".join(printed.split())


def test_another_device_is_predicted_for_in_the_bits_that_run(plan, tmp_path):
    job = plan_job(read_plan(plan), tmp_path)
    spec = load_device("pi-zero-2")
    found, notes = predict(job, spec)
    cost = price(compile_program(job.graph, job.plan.plan, job.plan.step), spec)
    assert found.device == "pi-zero-2"
    assert found.latency_s.value == cost.on_device.latency_s.value
    assert found.energy_j.high == cost.on_device.energy_j.high
    assert found.peak_bytes == cost.memory.peak_bytes
    assert notes == ()


@pytest.mark.slow
def test_several_devices_at_once_and_what_came_is_kept_when_one_fails(
    plan, there, tmp_path, capsys
):
    """This machine and one over SSH measure; one that is down and one with a wrong key do not."""
    out = tmp_path / "measured.json"
    with device(tmp_path / "impostor") as impostor:
        there.known_hosts.write_text(
            f"[127.0.0.1]:{impostor.port} {there.host_key.export_public_key().decode()}"
        )
        down = "ssh://me@127.0.0.1:1"
        wrong = f"ssh://me@127.0.0.1:{impostor.port}"
        more = ["--on", "local", "--on", down, "--on", wrong, "--steps", "2", "--out", str(out)]
        assert main(["measure", str(plan), *on(there), *more]) == 2
        assert impostor.commands == []
    captured = capsys.readouterr()
    told = captured.err.strip().splitlines()
    # The plan is for another device than either of the two that answer.
    assert sum("the prediction is for other conditions" in line for line in told) == 2
    assert len(told) == 4
    assert any(line.startswith(f"costsim: {down}: no connection: ") for line in told)
    assert any(f"costsim: {wrong}: its host key is SHA256:" in line for line in told)
    found = MeasurementFile.read(out)
    name = f"ssh://me@127.0.0.1:{there.port}"
    assert {run.outcome.target for run in found.runs} == {"local", name}
    assert {failure.target: failure.reason for failure in found.failures} == {
        down: "unreachable",
        wrong: "host key",
    }
    assert name in captured.out
    assert_nothing_is_left(there)


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_an_interrupted_measurement_cleans_up_and_keeps_what_it_has(plan, there, tmp_path, number):
    """As a person does it: a process of its own, interrupted in its second run."""
    out = tmp_path / "measured.json"
    command = ["-m", "costsim", "measure", plan, *on(there)]
    command += ["--steps", "2", "--repeats", "1000", "--out", out]
    process = start(command, stdout=PIPE, stderr=PIPE)
    until(out.exists)
    assert there.processes("costsim.hardware.targets.worker") or there.files()
    process.send_signal(number)
    printed, told = process.communicate(60)
    assert process.returncode == 130, told
    assert told.strip() == "costsim: interrupted"
    assert printed == ""
    assert len(MeasurementFile.read(out).runs) >= 1
    assert_nothing_is_left(there)


def asked_for_steps(device):
    """From which step on readings were asked for, each time."""
    return re.findall(r"tail -n \+(\d+) ", "\n".join(device.commands))


@pytest.mark.slow
def test_a_device_unplugged_in_the_middle_of_a_run_keeps_its_steps(plan, there, tmp_path, capsys):
    out = tmp_path / "measured.json"
    target = f"ssh://me@127.0.0.1:{there.port}?patience=3"

    def pull_the_plug():
        """Once somebody asks for what comes after the third step: the first three are known."""
        until(lambda: any(int(first) > 3 for first in asked_for_steps(there)))
        there.drop(deaf=True)

    threading.Thread(target=pull_the_plug, daemon=True).start()
    options = [*on(there)[2:], "--on", target, "--steps", str(FOREVER), "--out", str(out)]
    assert main(["measure", str(plan), *options]) == 1
    captured = capsys.readouterr()
    assert "1 run, the last cut short" in " ".join(captured.out.split())
    cleaning, other, line = captured.err.strip().splitlines()
    assert "the prediction is for other conditions" in other
    assert cleaning.startswith(f"costsim: warning: {target}: could not clean up")
    found = MeasurementFile.read(out)
    ((run,), (failure,)) = found.runs, found.failures
    steps = len(run.outcome.measurement.step_s)
    assert steps >= 3
    assert run.outcome.partial
    assert run.outcome.measurement.operations
    (note,) = [one for one in run.outcome.notes if "cut short" in one]
    assert note.startswith(f"cut short after {steps} of {FOREVER} steps: the connection was lost")
    assert failure.reason == "unreachable"
    assert line == f"costsim: {target}: {failure.message}"
    assert line.endswith(f"; {steps} of the {FOREVER} steps it was at are kept")
    rows = {row.quantity: row for row in found.comparisons()}
    assert rows["step"].measured == statistics.median(run.outcome.measurement.step_s)
    assert rows["live peak"].holds
    assert_nothing_is_left(there)


@pytest.mark.slow
def test_a_device_unplugged_half_way_keeps_what_came_before(plan, there, tmp_path, capsys):
    out = tmp_path / "measured.json"

    def pull_the_plug():
        until(out.exists)
        there.drop(deaf=True)

    threading.Thread(target=pull_the_plug, daemon=True).start()
    target = f"ssh://me@127.0.0.1:{there.port}?patience=5"
    options = [*on(there)[2:], "--on", target, "--steps", "2", "--repeats", "1000"]
    assert main(["measure", str(plan), *options, "--out", str(out)]) == 1
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 2
    assert told[0].startswith(f"costsim: warning: {target}: could not clean up")
    assert told[1].startswith(f"costsim: {target}: the connection was lost and did not come back")
    found = MeasurementFile.read(out)
    assert not found.runs[0].outcome.partial
    assert [failure.reason for failure in found.failures] == ["unreachable"]
    assert_nothing_is_left(there)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["absent.json"], "absent.json: cannot be read"),
        (["PLAN", "--on", "moon"], "target 'moon' is unknown; allowed are local, ssh://"),
        (["PLAN", "--on", "local", "--on", "local"], "local is given twice"),
        (["PLAN", "--repeats", "0"], "--repeats is 0; at least 1 is needed"),
        (["PLAN", "--steps", "0"], "--steps is 0; at least 1 is needed"),
        (["PLAN", "--threads", "0"], "--threads is 0; at least 1 is needed"),
        (["PLAN", "--memory-limit", "much"], "--memory-limit: cannot read 'much'"),
        (["PLAN", "--memory-limit", "0"], "memory_limit_bytes is 0"),
        (["PLAN", "--time-limit", "0"], "time limit 0.0 s: more than 0"),
        (["PLAN", "--out", "absent/m.json"], "--out: the folder absent does not exist"),
        (["PLAN", "--weights", "absent.pth"], "absent.pth"),
        (["PLAN", "--device", "toaster"], "device 'toaster'"),
        (["PLAN", "--device", ""], "--device is empty: the name of a shipped device"),
        (["PLAN", "--compute-target", "npu"], "has no target 'npu'"),
        (["PLAN", "--device", "pi-zero-2", "--compute-target", "gpu"], "has no target 'gpu'"),
    ],
)
def test_unusable_input_is_refused_in_one_line(plan, arguments, told, capsys):
    given = [str(plan) if argument == "PLAN" else argument for argument in arguments]
    assert main(["measure", *given]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.strip().splitlines()
    assert told in line


def test_a_plan_without_an_answer_or_for_another_model_is_refused(plan, tmp_path, capsys):
    def infeasible(document):
        document["predicted"], document["layers"] = None, []
        document["solver"]["status"] = "infeasible"

    def another(document):
        document["model"]["spec"] = "mbv2-w0.35"

    for change, told in ((infeasible, "holds no plan"), (another, "layers: layer")):
        document = json.loads(plan.read_text())
        change(document)
        path = tmp_path / "changed.json"
        path.write_text(json.dumps(document))
        assert main(["measure", str(path)]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "changed.json" in captured.err
        assert told in captured.err


def test_a_file_of_measurements_edited_into_nonsense_is_refused(plan, tmp_path):
    job = plan_job(read_plan(plan), tmp_path)
    predicted, _ = predict(job)
    whole = MeasurementFile(plan=read_plan(plan).to_json(), predicted=predicted).with_failure(
        Failure(target="local", reason="disk", message="full")
    )
    path = tmp_path / "m.json"
    whole.write(path)
    assert MeasurementFile.read(path) == whole
    for key, value, told in (
        ("schema", "costsim.measurements/9", "allowed is costsim.measurements/1"),
        ("runs", [{"started": "today"}], "m.json: runs.0.outcome"),
        ("predicted", {**whole.to_json()["predicted"], "peak_bytes": -1}, "predicted.peak_bytes"),
        ("failures", [{"target": "x", "reason": "mood", "message": ""}], "failures.0.reason"),
        ("mood", 1, "mood"),
    ):
        path.write_text(json.dumps({**whole.to_json(), key: value}))
        with pytest.raises(InputError, match=r"m\.json: ") as caught:
            MeasurementFile.read(path)
        assert told in str(caught.value)


def test_threads_are_those_of_the_calibration_unless_others_are_given(plan, tmp_path, capsys):
    path = calibrated(tmp_path, threads=2)
    asked = ["measure", str(plan), "--steps", "2", "--json"]
    note = f"--threads is 2: {path} was calibrated on so many"
    for options, threads, notes in (
        (["--device", str(path)], 2, [note]),
        (["--device", str(path), "--threads", "1"], 1, []),
    ):
        assert main([*asked, *options]) == 0
        captured = capsys.readouterr()
        # Calibrated on another processor, by its file: the run stands, with a warning.
        assert "local: the prediction is for other conditions: cpu " in captured.err
        assert f", not {CONDITIONS.cpu}" in captured.err
        document = json.loads(captured.out)
        (run,) = document["runs"]
        assert run["outcome"]["measurement"]["machine"]["threads"] == threads
        assert [one for one in document["notes"] if "--threads" in one] == notes
    assert main(["measure", "--help"]) == 0
    assert "as many as the device was calibrated on" in " ".join(capsys.readouterr().out.split())


def calibrated(folder, threads=None, conditions=CONDITIONS):
    """A device file with a calibration, by default of another processor than this one's."""
    document = load_device("jetson-nano").to_json()
    target = document["targets"][document["default_target"]]
    law = Law(overhead_s=1e-5, s_per_mac=0.0, s_per_byte=1e-10, spread=0.1)
    if threads is not None:
        target["threads"] |= {key: float(threads) for key in ("value", "low", "high")}
    target["calibration"] = Calibration(
        conditions=conditions.model_copy(update={"threads": int(target["threads"]["value"])}),
        taken="2026-01-01", step_factor=1.0, common=0.1, noise_floor=0.01, yardstick_s=1e-3,
        probes=6, kernels={"loss": law},
    ).model_dump(mode="json")  # fmt: skip
    path = folder / "mine.yaml"
    write_device(path, DeviceSpec.from_json(document))
    return path


def test_what_runs_on_the_device_predicted_for_is_judged(plan, tmp_path, capsys):
    """Calibrated on this very machine, by its file."""
    here = describe_conditions(1)
    path = calibrated(tmp_path, threads=1, conditions=here)
    arguments = ["measure", str(plan), "--steps", "2", "--device", str(path), "--json"]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["unlike"] == {}
    assert "other conditions" not in captured.err
    (step,) = [row for row in document["comparisons"] if row["quantity"] == "step"]
    assert step["ratio"] == step["measured"] / step["predicted"]
    assert step["holds"] == (step["low"] <= step["measured"] <= step["high"])
