"""What a job had read before it was cut short: kept, marked as partial, never made up."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from targeting import FOREVER, fork_jobs, make_job, with_options

from costsim.hardware.results.measurement_file import Failure, Run
from costsim.hardware.results.outcome import Outcome
from costsim.hardware.results.record import Measurement
from costsim.hardware.targets.base import TargetError, TargetOptions, Watch, parse_target
from costsim.hardware.targets.fan_out import Found, measure_on
from costsim.hardware.targets.job import PlanJob
from costsim.hardware.targets.local import LocalSession
from costsim.hardware.targets.readings import BEGUN, STEPS, Readings, Recorder

LOCAL = parse_target("local")
LOST = TargetError("local", "unreachable", "gone")


@pytest.fixture(autouse=True, scope="module")
def forked() -> Iterator[None]:
    """Jobs that need no seconds to load PyTorch."""
    with pytest.MonkeyPatch.context() as patch:
        fork_jobs(patch)
        yield


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> PlanJob:
    return make_job(tmp_path_factory.mktemp("job"))


@pytest.fixture(scope="module")
def whole(job: PlanJob) -> Outcome:
    """Of a job that came to its end."""
    with LOCAL.session(Watch()) as session:
        return session.perform(with_options(job, steps=4))


def stop_when(steps: int, stop: threading.Event) -> Watch:
    def report(what: str, done: int, _total: int) -> None:
        if "timing the step" in what and done >= steps:
            stop.set()

    return Watch(report=report, stopping=stop)


def test_a_job_that_is_stopped_leaves_its_steps(job: PlanJob, tmp_path: Path) -> None:
    target = parse_target("local", TargetOptions(folder=str(tmp_path)))
    watch = stop_when(2, threading.Event())
    with pytest.raises(TargetError) as caught, target.session(watch) as session:
        session.perform(with_options(job, steps=FOREVER))
    found = caught.value.partial
    assert found is not None
    assert found.partial
    assert (found.target, found.how) == ("local", "measured")
    assert found.measurement is not None
    assert 2 <= len(found.measurement.step_s) < FOREVER
    assert found.measurement.operations
    assert found.notes[-1].startswith(f"cut short after {len(found.measurement.step_s)} of ")
    assert Outcome.from_json(found.to_json(), "again") == found
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_is_killed_leaves_its_steps(job: PlanJob, tmp_path: Path) -> None:
    session: LocalSession

    def report(what: str, done: int, _total: int) -> None:
        if what == "timing the step" and done >= 2:
            assert session.process is not None
            session.process.kill()

    target = parse_target("local", TargetOptions(folder=str(tmp_path)))
    session = target.session(Watch(report=report))  # type: ignore[assignment]
    with pytest.raises(TargetError) as caught, session:
        session.perform(with_options(job, steps=FOREVER))
    found = caught.value.partial
    assert found is not None
    assert found.measurement is not None
    assert len(found.measurement.step_s) >= 2


@pytest.mark.slow
def test_a_run_that_ended_stands_before_what_is_left_of_the_next(
    job: PlanJob, tmp_path: Path
) -> None:
    found: list[Found] = []
    killer = threading.Thread(target=kill_second_worker, args=(tmp_path,), daemon=True)
    killer.start()
    few = with_options(job, steps=120)
    local = parse_target("local", TargetOptions(folder=str(tmp_path)))
    measure_on([local], few, repeats=3, watch=Watch(), found=found.append)
    killer.join()
    whole, rest, failure = found
    assert isinstance(whole, Run)
    assert isinstance(rest, Run)
    assert isinstance(failure, Failure)
    assert whole.outcome.measurement is not None
    assert rest.outcome.measurement is not None
    assert not whole.outcome.partial
    assert rest.outcome.partial
    assert len(whole.outcome.measurement.step_s) == 120 > len(rest.outcome.measurement.step_s)
    steps = len(rest.outcome.measurement.step_s)
    assert failure.message.endswith(f"; {steps} of the 120 steps it was at are kept")


def kill_second_worker(folder: Path) -> None:
    """As soon as it has timed two steps; whoever waits for progress may look away too long."""
    while sum(len(path.read_text().split()) for path in folder.glob(f"*/job-2/{STEPS}")) < 2:
        time.sleep(0.002)
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # another one, which has ended meanwhile
            if (process / "fd" / "1").readlink().is_relative_to(folder):  # where its log is
                os.kill(int(process.name), signal.SIGKILL)


def test_what_is_written_before_the_steps_is_what_is_found_after_them(
    whole: Outcome, job: PlanJob, tmp_path: Path
) -> None:
    measured = whole.measurement
    assert measured is not None
    assert not whole.partial
    recorder = Recorder(tmp_path)
    before = measured.model_copy(update={"step_s": (), "warnings": ()})
    recorder.begun(Outcome(target="", how="measured", measurement=before))
    for seconds in measured.step_s[:2]:
        recorder.stepped(seconds)
    readings = Readings()
    readings.load(tmp_path)
    found = readings.cut_short(LOCAL, job, LOST)
    assert found is not None
    assert found.measurement is not None
    assert found.measurement.step_s == measured.step_s[:2]  # to the last digit
    assert found.measurement.operations == measured.operations
    assert found.measurement.buffers == measured.buffers
    assert "only 2 steps timed" in found.measurement.warnings[0]


def test_a_line_that_was_cut_off_counts_when_it_is_whole() -> None:
    readings = Readings()
    readings.add("0.5; 0.25; 0.1")
    assert readings.step_s == [0.5, 0.25]
    readings.add("0.125;\n nonsense; ;")
    assert readings.step_s == [0.5, 0.25, 0.125]


@pytest.mark.parametrize(
    "begun",
    [
        "",
        "{",
        "[]",
        json.dumps({"schema": "costsim.outcome/9"}),
        json.dumps(Outcome(target="", how="measured").to_json()),
    ],
)
def test_nothing_is_made_of_nonsense(begun: str, job: PlanJob) -> None:
    assert Readings(begun, [1.0]).cut_short(LOCAL, job, LOST) is None


def test_without_a_step_there_is_nothing_to_keep(
    whole: Outcome, job: PlanJob, tmp_path: Path
) -> None:
    assert isinstance(whole.measurement, Measurement)
    Recorder(tmp_path).begun(whole)
    (tmp_path / STEPS).touch()
    readings = Readings()
    readings.load(tmp_path)
    assert readings.begun == (tmp_path / BEGUN).read_text()
    assert readings.cut_short(LOCAL, job, LOST) is None
