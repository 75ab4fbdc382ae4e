"""`costsim calibrate --on ssh://...`: a real server on 127.0.0.1, real processes, real trouble."""

import json
import os
import signal
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from calibrating import CONDITIONS
from calibrating import device as made_up
from fork_server import PIPE, start
from ssh_device import assert_nothing_is_left, device
from waiting import until

from costsim.base.errors import CostsimError, InputError
from costsim.cli import main
from costsim.device import load_device
from costsim.hardware.calibration.device_file import machine_spec
from costsim.hardware.calibration.remote import Order, look
from costsim.hardware.calibration.samples import read_samples
from costsim.hardware.calibration.session import CalibrationRequest, calibrate, measure_probes
from costsim.hardware.targets.base import TargetError, Watch, parse_target

QUICK = ["--time-limit", "6s", "--probes", "6"]


@pytest.fixture
def there(tmp_path):
    with device(tmp_path / "device") as found:
        yield found


def name_of(there, more=""):
    return f"ssh://me@127.0.0.1:{there.port}{more}"


def keys(there):
    return [
        *("--identity", str(there.identity), "--known-hosts", str(there.known_hosts)),
        "--trust-new-host",
    ]


@contextmanager
def once(condition, action):
    """Do `action` in the background as soon as `condition` holds, within the block or never."""
    over = threading.Event()

    def wait():
        until(lambda: condition() or over.is_set())
        if not over.is_set():
            action()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def samples_of(out):
    return out.with_name(f"{out.name}.samples.json")


# What works.


@pytest.mark.slow
def test_a_device_is_calibrated_through_a_lost_connection_and_left_clean(there, tmp_path, capsys):
    out = tmp_path / "there.yaml"
    asked = ["calibrate", "--on", name_of(there), *keys(there), *QUICK, "--out", str(out)]
    with once(lambda: there.processes("costsim.hardware.targets.worker"), there.drop):
        assert main([*asked, "--json"]) == 0
    assert there.connections >= 2
    calibration = load_device(out).target().calibration
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(calibration.model_dump_json())
    readings = read_samples(samples_of(out))
    assert len({one.name for one in readings.probes}) == calibration.probes == 6
    assert calibration.conditions == readings.conditions
    assert calibration.conditions.threads == 1
    assert_nothing_is_left(there)


@pytest.mark.slow
def test_unplugged_half_way_keeps_the_readings_and_resumes(there, tmp_path, capsys):
    """The device goes for good once there are readings; plugged in again, the rest is measured."""
    out = tmp_path / "there.yaml"
    asked = ["calibrate", *keys(there), *QUICK, "--out", str(out)]
    with once(samples_of(out).exists, lambda: there.drop(deaf=True)):
        # Patient enough to be found there where this machine is busy with others.
        assert main([*asked, "--on", name_of(there, "?patience=15")]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert told[0].startswith("costsim: warning: ssh://me@127.0.0.1")
    (line,) = [one for one in told if "warning" not in one]
    kept = read_samples(samples_of(out))
    number = len({one.name for one in kept.probes})
    assert "the connection was lost and did not come back in 15 s" in line
    assert f"the readings of {number} probes are kept in {samples_of(out)}" in line
    assert line.endswith("go on with --resume")
    assert not out.exists()
    assert_nothing_is_left(there)
    there.listen()
    assert main([*asked, "--on", name_of(there)]) == 2
    assert "holds measurements of an earlier run; give --resume" in capsys.readouterr().err
    assert main([*asked, "--on", name_of(there), "--resume"]) == 0
    after = read_samples(samples_of(out))
    assert after.probes[: len(kept.probes)] == kept.probes
    assert load_device(out).target().calibration.probes == 6
    assert_nothing_is_left(there)


@pytest.mark.slow
def test_two_devices_at_once_and_one_that_is_down(there, tmp_path, capsys):
    """The two that answer are calibrated, each into its own file; the third is said."""
    with device(tmp_path / "second") as second:
        second.authorize(there.user_key)
        outs = [tmp_path / f"{name}.yaml" for name in ("first", "second", "down")]
        places = [name_of(there), name_of(second), "ssh://me@127.0.0.1:1"]
        asked = [part for pair in zip(places, outs, strict=True)
                 for part in ("--on", pair[0], "--out", str(pair[1]))]  # fmt: skip
        assert main(["calibrate", *asked, *keys(there), *QUICK, "--json"]) == 2
        assert_nothing_is_left(second)
    captured = capsys.readouterr()
    lines = [line for line in captured.err.strip().splitlines() if "warning" not in line]
    assert len(lines) == 1
    assert lines[0].startswith("costsim: ssh://me@127.0.0.1:1: no connection: ")
    rows = json.loads(captured.out)
    assert {(row["target"], row["out"]) for row in rows} == {
        (place, str(out)) for place, out in zip(places[:2], outs[:2], strict=True)
    }
    for out in outs[:2]:
        assert load_device(out).target().calibration.probes == 6
    assert not outs[2].exists()
    assert_nothing_is_left(there)


@pytest.mark.slow
def test_ended_politely_it_cleans_up_and_keeps_the_readings(there, tmp_path):
    out = tmp_path / "there.yaml"
    command = ["-m", "costsim", "calibrate", "--on", name_of(there), *keys(there)]
    command += ["--time-limit", "60s", "--out", str(out)]
    process = start(command, stdout=PIPE, stderr=PIPE)
    until(samples_of(out).exists)
    process.send_signal(signal.SIGTERM)
    printed, told = process.communicate(60)
    assert (process.returncode, printed, told.strip()) == (130, "", "costsim: interrupted"), told
    assert read_samples(samples_of(out)).probes
    assert not out.exists()
    assert_nothing_is_left(there)


# Before anything is measured.


def test_the_first_look_says_how_it_is_there_and_what_starting_takes() -> None:
    with parse_target("local").session(Watch()) as session:
        conditions, start_s = look(session, 1)
    assert conditions.threads == 1
    assert conditions.cores == os.cpu_count()
    assert 0.1 < start_s < 60


def test_a_first_guess_is_named_after_the_place() -> None:
    assert machine_spec(CONDITIONS).name == "this-machine"
    found = machine_spec(CONDITIONS, "ssh://Pi@10.0.0.7:2222?patience=3")
    assert found.name == "pi-10-0-0-7-2222"
    assert machine_spec(CONDITIONS, "ssh://me@[fe80::1]").name == "me-fe80-1"


@pytest.mark.parametrize("start_s", [0.0, 0.5, 5.0, 30.0, 200.0])
def test_starting_never_takes_more_than_its_share(start_s: float) -> None:
    """Probes share a process where starting one is slow; where it costs nothing, none does."""
    request = CalibrationRequest(
        machine_spec(CONDITIONS), made_up(), Path("s.json"), start_s=start_s
    )
    calls = 2 * request.probes / request.batch
    assert calls * start_s <= 0.3 * 300 or calls <= 2
    assert 0 < 2 * request.probes * request.seconds_each <= 0.75 * 300
    assert (request.batch == 1) == (start_s < 1)


def test_an_emulator_does_not_time(tmp_path) -> None:
    with pytest.raises(InputError, match="an emulator counts, it does not time"):
        Order(parse_target("unicorn:cortex-m7"), None, tmp_path / "s.json", 1)


# Trouble.


def refused(there, tmp_path, capsys, *more):
    """The one line of a calibration that comes to nothing."""
    out = tmp_path / "there.yaml"
    place = [] if "--on" in more else ["--on", name_of(there)]
    assert main(["calibrate", *keys(there), *place, *QUICK, "--out", str(out), *more]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.strip().splitlines()
    assert not out.exists()
    return line


def test_a_key_that_the_device_does_not_know(there, tmp_path, capsys):
    with device(tmp_path / "other") as other:
        assert "--identity" in refused(
            there, tmp_path, capsys, "--identity", str(other.identity)
        )  # the later one counts


def test_a_device_that_is_not_who_it_was(there, tmp_path, capsys):
    there.known_hosts.write_text(
        f"[127.0.0.1]:{there.port} ssh-ed25519 "
        + there.user_key.export_public_key().decode().split()[1]
        + "\n"
    )
    assert "another machine may be answering" in refused(there, tmp_path, capsys)


@pytest.mark.slow
def test_a_device_without_memory_to_start_in(there, tmp_path, capsys):
    there.wrap = "ulimit -v 300000; "
    line = refused(there, tmp_path, capsys)
    assert "out of memory: " in line
    assert_nothing_is_left(there)


def test_probes_that_the_device_has_no_memory_for_are_left_out(tmp_path: Path) -> None:
    """One of them is too much, whichever call it is in; the others are measured all the same."""
    tell = made_up(noise=0.01)
    refusing: list[str] = []

    def runner(names, seconds):
        if not refusing:
            refusing.append(names[2])
        if refusing[0] in names:
            raise TargetError("pi", "memory", "the kernel killed the job")
        return tell(names, seconds)

    request = CalibrationRequest(
        machine_spec(CONDITIONS), runner, tmp_path / "s.json", probes=10, pool=20, start_s=10.0,
        time_limit_s=60.0,
    )  # fmt: skip
    found = calibrate(request)
    assert found.calibration.probes == 9
    assert refusing[0] not in {one.name for one in found.samples.probes}
    assert found.warnings[0].endswith(f"no memory: {refusing[0]}")


def test_probes_bigger_than_the_device_are_not_tried(tmp_path: Path) -> None:
    document = machine_spec(CONDITIONS).to_json()
    document["memory"]["ram"]["size"]["value"] = 2e6
    small = type(machine_spec(CONDITIONS)).from_json(document, "small")
    asked: list[str] = []

    def runner(names, seconds):
        asked.extend(names)
        return made_up()(names, seconds)

    measure_probes(CalibrationRequest(small, runner, tmp_path / "s.json", probes=8, pool=30))
    from costsim.hardware.calibration.probes import parse_probe
    from costsim.pricing.cost import memory_cost

    assert asked
    for name in asked:
        cost = memory_cost(parse_probe(name).program())
        assert cost.peak_bytes + cost.frozen_weight_bytes <= 0.8 * 2e6


def test_what_goes_wrong_in_the_middle_says_what_is_kept(tmp_path: Path) -> None:
    calls: list[str] = []

    def runner(names, seconds):
        if len(calls) >= 3:
            raise TargetError("pi", "disk", "No space left on device")
        calls.extend(names)
        return made_up()(names, seconds)

    path = tmp_path / "s.json"
    with pytest.raises(CostsimError) as caught:
        calibrate(CalibrationRequest(machine_spec(CONDITIONS), runner, path, probes=8, pool=12))
    assert str(caught.value) == (
        f"pi: No space left on device; the readings of 3 probes are kept in {path}: go on with "
        "--resume"
    )
    assert [one.name for one in read_samples(path).probes] == calls
