"""Targets: the names they go by, jobs as values, and this machine as one."""

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from targeting import FOREVER, fork_jobs, make_job, with_options
from waiting import PATIENCE_S, until

import costsim
from costsim.base.errors import InputError
from costsim.hardware.results.outcome import Outcome
from costsim.hardware.ssh.target import SshTarget
from costsim.hardware.targets.base import (
    EXAMPLES,
    SCHEMES,
    Session,
    Target,
    TargetError,
    TargetOptions,
    Watch,
    parse_target,
)
from costsim.hardware.targets.job import KernelJob, PlanJob, RunOptions, job_from_json
from costsim.hardware.targets.probe import RUNNER
from costsim.ir.program import compile_program
from costsim.pricing.cost import mac_cost, memory_cost


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    return make_job(tmp_path_factory.mktemp("job"))


def children() -> set[int]:
    """Processes below this one."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            after = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(after[1]) == os.getpid() and after[0] != "Z":
            found.add(int(status.parent.name))
    return found


@pytest.fixture
def left_over():
    """Processes below this one since the test began (an earlier test's may still be there)."""
    before = children()
    return lambda: children() - before


# Names.


@pytest.mark.parametrize("text", EXAMPLES)
def test_every_kind_of_target_has_an_example(text):
    assert text.partition(":")[0] in SCHEMES
    assert len({example.partition(":")[0] for example in EXAMPLES}) == len(SCHEMES)


@pytest.mark.parametrize(
    "text",
    [
        "local",
        "ssh://pi@10.0.0.7",
        "ssh://10.0.0.7:2222",
        "ssh://me@[fe80::1]:22022",
        "ssh://nano?python=/opt/py/bin/python&folder=~/x&patience=30",
    ],
)
def test_a_target_is_named_as_it_was_typed(text):
    assert parse_target(text).name == text
    assert parse_target(parse_target(text).name) == parse_target(text)


def test_a_target_over_ssh_takes_parameters():
    found = parse_target("ssh://pi@host?python=/opt/py/bin/python&patience=30&folder=~/x%20y")
    assert isinstance(found, SshTarget)
    assert (found.python, found.patience_s, found.folder) == ("/opt/py/bin/python", 30.0, "~/x y")
    assert parse_target(found.name) == found
    other = parse_target("ssh://pi@host", TargetOptions(folder="/tmp/f"))
    assert isinstance(other, SshTarget)
    assert other.folder == "/tmp/f"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "allowed are local, ssh://user@host:port, unicorn:cortex-m7"),
        ("Local", "allowed are local"),
        ("http://x", "target 'http://x' is unknown"),
        ("local:here", "stands alone"),
        ("local?a=1", "unknown parameter 'a'; it takes none"),
        ("ssh://", "ssh://user@host:port is needed"),
        ("ssh://a@b@c", "ssh://user@host:port is needed"),
        ("ssh://host:0", "ssh://user@host:port is needed"),
        ("ssh://host:99999", "ssh://user@host:port is needed"),
        ("ssh://host/path", "ssh://user@host:port is needed"),
        ("ssh://host?pyton=x", "unknown parameter 'pyton'; allowed are python, folder, patience"),
        ("ssh://host?python=a&python=b", "given twice"),
        ("ssh://host?patience=long", "patience is 'long'"),
        ("ssh://host?patience=0", "patience is '0'"),
    ],
)
def test_a_wrong_name_is_refused_with_what_is_allowed(text, told):
    with pytest.raises(InputError) as caught:
        parse_target(text)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


# Jobs as values.


def test_a_job_travels_as_json(job, tmp_path):
    document = json.loads(json.dumps(job.to_json()))
    read = job_from_json(document, tmp_path)
    assert isinstance(read, PlanJob)
    assert replace(read, weights=job.weights, graph=job.graph) == job
    assert read.graph.to_json() == job.graph.to_json()
    assert read.weights == tmp_path / "weights.safetensors"
    assert "/" not in str(document["plan"]["model"]["weights"])


@given(
    st.dictionaries(st.text(), st.integers() | st.text() | st.lists(st.floats(0, 1))),
    st.integers(1, 100),
    st.none() | st.integers(1, 64),
)
def test_a_batch_of_kernels_travels_as_json(batch, steps, threads):
    job = KernelJob(RUNNER, batch, RunOptions(steps, threads))
    assert job_from_json(json.loads(json.dumps(job.to_json())), Path()) == job


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"schema": "costsim.job/2"}, "schema: 'costsim.job/2'"),
        ({"kind": "party"}, "kind: 'party'; allowed are plan, kernels"),
        ({"runner": "os:system"}, "runner 'os:system'"),
        ({"runner": "costsim.hardware.targets.probe"}, "costsim.module:function is needed"),
        ({"options": {"steps": 0}}, "steps is 0"),
        ({"options": {"steps": True}}, "steps is True"),
        ({"options": {"pace": 1}}, "pace"),
        ({"more": 1}, "more: is unknown"),
        ({"batch": ...}, "batch: is missing"),
    ],
)
def test_a_damaged_job_is_refused(change, told):
    document = {**KernelJob(RUNNER, {}).to_json(), **change}
    document = {key: value for key, value in document.items() if value is not ...}
    with pytest.raises(InputError, match=r"job\.json: ") as caught:
        job_from_json(document, Path(), "job.json")
    assert told in str(caught.value)


# The interface.


class _Diary(Session):
    """Notes what is asked of it; fails where told."""

    def __init__(self, target: "_DiaryTarget", watch: Watch) -> None:
        super().__init__(target, watch)
        self.fails = target.fails
        self.noted: list[str] = []

    def _note(self, what):
        self.noted.append(what)
        if what == self.fails:
            raise TargetError("diary", "failed", what)

    def start(self):
        self._note("start")

    def ship(self, job):
        self._note("ship")

    def run(self):
        self._note("run")

    def collect(self):
        self._note("collect")
        return Outcome(target="diary", how="emulated")

    def clean_up(self):
        self._note("clean up")


class _DiaryTarget(Target):
    how = "emulated"
    name = "diary"

    def __init__(self, fails=None):
        self.fails = fails

    @classmethod
    def parse(cls, place, parameters, options):
        return cls()

    def session(self, watch):
        return _Diary(self, watch)


ALL = ["start", "ship", "run", "collect", "clean up"]


@pytest.mark.parametrize("fails", [None, "start", "ship", "run", "collect"])
def test_a_session_always_cleans_up_once(fails):
    session = _DiaryTarget(fails).session(Watch())
    if fails is None:
        with session:
            session.perform(KernelJob(RUNNER, {}))
        assert session.noted == ALL
        return
    with pytest.raises(TargetError, match=f"diary: {fails}"), session:
        session.perform(KernelJob(RUNNER, {}))
    assert session.noted == [*ALL[: ALL.index(fails) + 1], "clean up"]


# This machine.


def test_a_local_job_is_measured_in_a_process_of_its_own(job, tmp_path, left_over):
    told = []
    target = parse_target("local", TargetOptions(folder=str(tmp_path)))
    with target.session(Watch(lambda *progress: told.append(progress))) as session:
        outcome = session.perform(job)
        probe = session.perform(KernelJob(RUNNER, {"number": 7}, RunOptions(threads=2))).samples
    assert list(tmp_path.iterdir()) == []
    measured = outcome.measurement
    assert (outcome.target, outcome.how) == ("local", "measured")
    assert measured is not None
    assert len(measured.step_s) == job.options.steps
    assert len(outcome.processor_step_s) == job.options.steps
    assert 0 < min(outcome.processor_step_s) <= 1.2 * max(measured.step_s)
    assert {"load", "load before", "clock_hz"} <= outcome.conditions.keys()
    program = compile_program(job.graph, job.plan.plan, job.plan.step)
    assert measured.program_peak_bytes == memory_cost(program).peak_bytes
    assert measured.macs_of("weight_gradient") == mac_cost(program).weight_gradient
    assert ("loading PyTorch", 0, 0) in told  # later phases may be over before the next look
    assert probe["batch"] == {"number": 7}
    assert probe["machine"]["threads"] == 2
    assert probe["package"] == costsim.__file__
    assert left_over() == set()


@pytest.mark.slow
def test_the_limit_on_memory_decides_as_predicted(tmp_path):
    """The prediction, scratch memory included, is the limit at which a step begins to run."""
    job = make_job(tmp_path, side=64, batch=16)
    with parse_target("local").session(Watch()) as session:
        measured = session.perform(with_options(job, memory_limit_bytes=1 << 40)).measurement
        peak = measured.process_peak_bytes
        enough, little = int(1.1 * peak), int(0.9 * peak)
        (note,) = [
            note
            for note in session.perform(with_options(job, memory_limit_bytes=enough)).notes
            if "ran within" in note
        ]
        assert "as predicted" in note
        with pytest.raises(TargetError, match="out of memory within") as caught:
            session.perform(with_options(job, memory_limit_bytes=little))
    assert caught.value.reason == "memory"
    assert caught.value.predicted
    assert "as predicted" in str(caught.value)


def test_a_job_that_takes_too_long_is_ended(job, tmp_path, left_over):
    options = TargetOptions(folder=str(tmp_path), time_limit_s=0.5)
    with (
        pytest.raises(TargetError, match=r"local: took longer than 0\.5 s") as caught,
        parse_target("local", options).session(Watch()) as session,
    ):
        session.perform(with_options(job, steps=FOREVER))
    assert caught.value.reason == "time limit"
    assert left_over() == set()
    assert list(tmp_path.iterdir()) == []


def test_a_job_can_be_stopped_from_another_thread(job, tmp_path, left_over):
    watch = Watch()
    target = parse_target("local", TargetOptions(folder=str(tmp_path)))
    threading.Timer(0.5, watch.stopping.set).start()
    with pytest.raises(TargetError) as caught, target.session(watch) as session:
        session.perform(with_options(job, steps=FOREVER))
    assert caught.value.reason == "stopped"
    assert left_over() == set()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("runner", "reason", "told"),
    [
        ("costsim.absent:run", "missing", "No module named 'costsim.absent'"),
        ("costsim.hardware.targets.probe:absent", "failed", "AttributeError"),
        ("costsim.base.units:parse_bytes", "failed", "TypeError"),
    ],
)
def test_what_goes_wrong_in_a_job_is_one_line(runner, reason, told, monkeypatch):
    fork_jobs(monkeypatch)
    with (
        pytest.raises(TargetError) as caught,
        parse_target("local").session(Watch()) as session,
    ):
        session.perform(KernelJob(runner, {}))
    assert caught.value.reason == reason
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_job_ends_and_its_folder_goes_when_its_starter_dies(job, tmp_path):
    (tmp_path / "weights.safetensors").symlink_to(job.weights)
    (tmp_path / "job.json").write_text(json.dumps(with_options(job, steps=FOREVER).to_json()))
    process = subprocess.Popen(
        [sys.executable, "-m", "costsim.hardware.targets.worker", str(tmp_path)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    until((tmp_path / "progress").exists)
    assert process.poll() is None
    process.stdin.close()
    process.wait(PATIENCE_S)
    process.stderr.close()
    assert not tmp_path.exists()
    assert job.weights.exists()


def test_a_folder_without_a_job_is_left_alone(tmp_path):
    (tmp_path / "file").write_text("mine")
    command = [sys.executable, "-m", "costsim.hardware.targets.worker", str(tmp_path)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 2
    assert "holds no job.json" in done.stderr
    assert (tmp_path / "file").read_text() == "mine"


def test_a_local_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    target = parse_target("local", TargetOptions(folder=str(tmp_path / "file" / "in")))
    with pytest.raises(InputError, match="Not a directory"), target.session(Watch()):
        pass
