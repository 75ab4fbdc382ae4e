"""Targets over SSH, against a real server on 127.0.0.1 that runs real processes in its own home."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from fork_server import PIPE, start
from ssh_device import assert_nothing_is_left, device
from targeting import FOREVER, make_job, with_options
from waiting import until

from costsim.base.errors import InputError
from costsim.hardware.ssh.target import SshTarget
from costsim.hardware.targets.base import TargetError, TargetOptions, Watch, parse_target
from costsim.hardware.targets.job import KernelJob
from costsim.hardware.targets.probe import RUNNER


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    return make_job(tmp_path_factory.mktemp("job"))


@pytest.fixture
def there(tmp_path):
    with device(tmp_path) as found:
        yield found


def target_on(device, *, poll_s=0.05, patience_s=60.0, **options):
    """The device as a target, its key pinned beforehand unless other options are given."""
    given = {"trust_new_hosts": True, **options}
    asked = TargetOptions(identity=device.identity, known_hosts=device.known_hosts, **given)
    target = parse_target(f"ssh://me@127.0.0.1:{device.port}", asked)
    assert isinstance(target, SshTarget)
    return replace(target, poll_s=poll_s, patience_s=patience_s)


LATER = ("running", "counting", "recording", "measuring", "timing")
"""How everything begins that a job says once PyTorch is loaded."""


class Story:
    """A watch that calls back when the progress comes to a certain point, and notes warnings.

    `moment` is what the progress begins with, or several of those: any one of them may be missed.
    """

    def __init__(self, moment="", then=lambda: None):
        self.moment, self.then = moment, then
        self.told: list[str] = []
        self.warned: list[str] = []
        self.watch = Watch(self.report, warn=self.warned.append)

    def report(self, what, done, total):
        self.told.append(what)
        if self.moment and what.startswith(self.moment):
            self.moment = ""
            self.then()


def refusal(target, watch=None, job=None):
    """The error of a whole use of `target`."""
    with pytest.raises(TargetError) as caught, target.session(watch or Watch()) as session:
        session.perform(job or KernelJob(RUNNER, {}))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(target.name)
    return caught.value


# What works.


def test_jobs_are_done_with_the_package_that_was_shipped_and_nothing_is_left(there, job):
    target = target_on(there)
    with target.session(Watch()) as session:
        outcome = session.perform(job)
        probe = session.perform(KernelJob(RUNNER, {"number": 7})).samples
        assert there.files()
    assert (outcome.target, outcome.how) == (target.name, "measured")
    assert len(outcome.measurement.step_s) == job.options.steps
    assert outcome.measurement.kept_bytes == job.plan.predicted.memory.kept_bytes
    assert probe["batch"] == {"number": 7}
    assert Path(probe["package"]).is_relative_to(there.home / ".cache" / "costsim")
    assert there.connections == 1
    assert_nothing_is_left(there)


def test_a_dropped_connection_comes_back_to_the_running_job(there, job):
    """Cut twice, once with the host away for a while: the same process, and its measurement."""
    pids = []

    def cut():
        pids.append(there.processes("costsim.hardware.targets.worker"))
        there.drop()
        story.moment, story.then = LATER, cut_for_longer

    def cut_for_longer():
        pids.append(there.processes("costsim.hardware.targets.worker"))
        there.drop(deaf=True)
        threading.Timer(1.0, there.listen).start()

    story = Story("loading PyTorch", cut)
    steps = 200
    with target_on(there).session(story.watch) as session:
        outcome = session.perform(with_options(job, steps=steps))
    assert len(outcome.measurement.step_s) == steps
    assert len(pids) == 2
    assert pids[0] == pids[1]
    assert len(pids[0]) == 1
    assert there.connections >= 3
    assert any("trying again" in what for what in story.told)
    assert_nothing_is_left(there)


def test_a_connection_dropped_while_files_are_sent_sends_them_again(there, job):
    story = Story("sending weights", there.drop)
    with target_on(there).session(story.watch) as session:
        session.ship(job)
        (sent,) = there.home.rglob("weights.safetensors")
        assert sent.read_bytes() == job.weights.read_bytes()
        assert there.connections == 2
        before = len(there.commands)
        session.ship(job)
        assert not any(
            "files/" in command and "cat" in command for command in there.commands[before:]
        )
    assert_nothing_is_left(there)


def test_a_folder_of_ones_own_choosing_is_left_as_it_was(there):
    (there.home / "mine").mkdir()
    (there.home / "mine" / "file").write_text("mine")
    with replace(target_on(there), folder="~/mine").session(Watch()):
        assert any(name.startswith("mine/run-") for name in there.files())
        assert not (there.home / ".cache").exists()
    assert_nothing_is_left(there, but=["mine", "mine/file"])


def test_a_greeting_of_the_login_shell_does_no_harm(there):
    there.wrap = "echo Welcome; echo 'to the device' >&2; "
    with target_on(there).session(Watch()) as session:
        assert Path(session.folder).is_dir()
    assert_nothing_is_left(there)


def test_a_host_without_a_shell_is_refused(there):
    there.wrap = "echo no commands for you; exit 0; "
    error = refusal(target_on(there))
    assert error.reason == "missing"
    assert "no POSIX shell" in str(error)


@pytest.mark.parametrize("command", ["version", "heartbeat"])
def test_an_answer_without_end_is_given_up(there, monkeypatch, command):
    monkeypatch.setattr("costsim.hardware.ssh.connection.MOST_ANSWER_BYTES", 1 << 20)
    monkeypatch.setattr("costsim.hardware.ssh.folder.COMMAND_S", 5.0)
    serve = there._serve

    async def pour(process):
        if command not in process.command or "kill -0" in process.command:
            await serve(process)
            return
        with suppress(Exception):
            while True:
                process.stdout.write(b"y\n" * 32768)
                await process.stdout.drain()

    there._serve = pour
    there.drop(deaf=True)
    there.listen()
    error = refusal(target_on(there, patience_s=2.0))
    assert error.reason == "failed"
    assert "it answers without end (over 1 MiB)" in str(error)


@pytest.mark.parametrize(
    ("end", "told"),
    [(b"", "its answer is cut short"), (b"\n\x03costsim\x02", "not '~/.cache/costsim")],
)
def test_no_folder_is_removed_but_ours_whatever_the_device_calls_it(there, end, told):
    """Where it says it made one is an answer as any other, and answers may be cut short or lie."""
    (there.home / "precious").write_text("")
    serve = there._serve

    async def shorten(process):
        write = process.stdout.write

        def shortened(content):
            named, ready, _ = content.partition(b"ready ")
            write(named + ready + bytes(there.home) + end if ready else content)

        process.stdout.write = shortened
        await serve(process)

    there._serve = shorten
    there.drop(deaf=True)
    there.listen()
    assert told in str(refusal(target_on(there, patience_s=2.0)))
    assert (there.home / "precious").exists()


def test_two_visits_at_once_do_not_disturb_each_other(there):
    with target_on(there).session(Watch()) as first:
        with target_on(there).session(Watch()) as second:
            assert first.folder != second.folder
            assert len(there.processes(second.folder)) == len(there.processes(first.folder)) == 1
        assert Path(first.folder).is_dir()
        assert not Path(second.folder).exists()
    assert_nothing_is_left(there)


# Stopped, given up, lost.


@pytest.mark.slow
def test_stopping_ends_the_job_and_removes_its_files(there, job):
    story = Story("timing the step")
    story.then = story.watch.stopping.set
    error = refusal(target_on(there), story.watch, with_options(job, steps=FOREVER))
    assert error.reason == "stopped"
    assert_nothing_is_left(there)


def test_a_job_that_takes_too_long_is_ended_there(there, job):
    error = refusal(target_on(there, time_limit_s=1.0), None, with_options(job, steps=FOREVER))
    assert error.reason == "time limit"
    assert_nothing_is_left(there)


@pytest.mark.slow
def test_when_nobody_comes_back_the_device_cleans_up_by_itself(there, job):
    """This side is killed in the middle, without a word; the device waits its time and ends it."""
    code = f"""
import sys
from pathlib import Path
from dataclasses import replace
from costsim.hardware.targets.base import TargetOptions, Watch, parse_target
from costsim.hardware.targets.job import KernelJob, job_from_json
import json
options = TargetOptions(identity=Path({str(there.identity)!r}),
    known_hosts=Path({str(there.known_hosts)!r}), trust_new_hosts=True)
target = parse_target("ssh://me@127.0.0.1:{there.port}?patience=4", options)
job = job_from_json(json.loads(sys.stdin.read()), Path({str(job.weights.parent)!r}))
with replace(target, poll_s=0.05).session(Watch(lambda *told: print(told, flush=True))) as session:
    session.perform(job)
"""
    process = start(["-c", code], stdin=PIPE, stdout=PIPE)
    process.stdin.write(json.dumps(with_options(job, steps=FOREVER).to_json()))
    process.stdin.close()
    for line in process.stdout:
        if "loading PyTorch" in line:
            break
    process.kill()
    process.communicate()
    assert len(there.processes("costsim.hardware.targets.worker")) == 1
    assert there.files()
    assert_nothing_is_left(there)


@pytest.mark.slow
def test_unplugged_for_good_is_said_and_the_device_cleans_up(there, job):
    story = Story("loading PyTorch", lambda: there.drop(deaf=True))
    target = target_on(there, patience_s=3.0)
    error = refusal(target, story.watch, with_options(job, steps=FOREVER))
    assert error.reason == "unreachable"
    assert "the connection was lost and did not come back in 3 s: " in str(error)
    (warning,) = story.warned
    assert "could not clean up" in warning
    assert "within 3 s" in warning
    assert_nothing_is_left(there)


def test_a_device_that_was_set_back_is_said_and_cleaned(there, job):
    """As after a power cut: all processes gone, all files still there."""

    def power_cut():
        for pid in there.processes():
            os.kill(pid, signal.SIGKILL)

    story = Story("loading PyTorch", power_cut)
    error = refusal(target_on(there), story.watch, with_options(job, steps=FOREVER))
    assert error.reason == "failed"
    assert "restarted" in str(error)
    assert_nothing_is_left(there)


def test_what_a_power_cut_left_is_swept_by_the_next_visit(there):
    stale = there.home / ".cache" / "costsim" / "run-0123456789ab"
    other = there.home / ".cache" / "costsim" / "notes"
    for folder in (stale, other):
        folder.mkdir(parents=True)
        (folder / "supervisor").write_text(json.dumps({"pid": 1, "boot": "before"}))
    with target_on(there).session(Watch()):
        until(lambda: not stale.exists())
    assert other.exists()


def test_a_job_that_somebody_killed_is_not_taken_for_one_out_of_memory(there, job):
    def kill():
        (pid,) = there.processes("costsim.hardware.targets.worker")
        os.kill(pid, signal.SIGKILL)

    story = Story("loading PyTorch", kill)
    error = refusal(target_on(there), story.watch, with_options(job, steps=FOREVER))
    assert error.reason == "failed"
    assert "something killed the job (SIGKILL)" in str(error)
    assert "memory: it held " in str(error)  # what it held, and of how much
    assert_nothing_is_left(there)


# Refused.


def test_a_host_that_is_down(there):
    target = target_on(there)
    there.drop(deaf=True)
    error = refusal(target)
    assert error.reason == "unreachable"
    assert "no connection: " in str(error)
    there.listen()
    assert there.files() == []


def test_an_unknown_host_is_refused_until_it_is_trusted_and_a_wrong_key_always(there, tmp_path):
    unknown = refusal(target_on(there, trust_new_hosts=False))
    assert unknown.reason == "host key"
    assert there.host_key.get_fingerprint() in str(unknown)
    assert "--trust-new-host" in str(unknown)
    assert not there.known_hosts.exists()
    with target_on(there).session(Watch()):
        pass
    pinned = there.known_hosts.read_text()
    assert pinned.startswith(f"[127.0.0.1]:{there.port} ssh-ed25519 ")
    with target_on(there, trust_new_hosts=False).session(Watch()):
        pass
    with device(tmp_path / "impostor") as impostor:
        shutil.copy(there.identity, impostor.identity)
        line = pinned.replace(f":{there.port} ", f":{impostor.port} ")
        there.known_hosts.write_text(pinned + line)
        wrong = refusal(replace(target_on(there), port=impostor.port))
        assert impostor.commands == []
    assert wrong.reason == "host key"
    assert impostor.host_key.get_fingerprint() in str(wrong)
    assert there.host_key.get_fingerprint() in str(wrong)
    assert there.known_hosts.read_text() == pinned + line


def test_a_host_that_changes_its_key_in_the_middle_is_refused(there, job):
    """Whoever answers after a cut must be who was there before."""

    def swap():
        there.drop(deaf=True)
        there.change_host_key()
        there.listen()

    story = Story("loading PyTorch", swap)
    error = refusal(target_on(there), story.watch, with_options(job, steps=FOREVER))
    assert error.reason == "host key"


def test_a_known_hosts_file_that_is_none_is_refused(there):
    there.known_hosts.mkdir()
    with pytest.raises(InputError, match="known_hosts: cannot be read"):
        target_on(there).session(Watch())


def test_a_host_that_does_not_let_us_in(there, tmp_path):
    with device(tmp_path / "other") as other:
        target = target_on(there)
        options = replace(target.options, identity=other.identity)
        error = refusal(replace(target, options=options))
    assert error.reason == "login"
    assert "--identity" in str(error)


def test_an_identity_that_is_no_key_is_refused(there):
    there.identity.write_text("nothing")
    with pytest.raises(InputError, match="--identity"), target_on(there).session(Watch()):
        pass


def test_a_python_without_what_is_needed(there, tmp_path):
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    error = refusal(replace(target_on(there), python=str(bare / "bin" / "python")))
    assert error.reason == "missing"
    assert "without torch, numpy, networkx, pydantic, pyyaml, safetensors" in str(error)
    absent = refusal(replace(target_on(there), python="/absent/python"))
    assert absent.reason == "missing"
    assert "'/absent/python' cannot be run there" in str(absent)
    old = tmp_path / "old"
    old.write_text("#!/bin/sh\necho '[[3, 5, 3], [], \"linux\", null]'\n")
    old.chmod(0o755)
    assert "is Python 3.5.3; at least 3.11 is needed" in str(
        refusal(replace(target_on(there), python=str(old)))
    )
    other = tmp_path / "other"
    other.write_text("#!/bin/sh\necho hello\n")
    other.chmod(0o755)
    assert "is no Python" in str(refusal(replace(target_on(there), python=str(other))))
    assert there.files() == []


def test_too_little_room_is_said_before_anything_is_sent(there, small_disk, job):
    error = refusal(replace(target_on(there), folder=str(small_disk)), None, job)
    assert error.reason == "disk"
    assert "free; the job needs" in str(error)
    assert list(small_disk.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_while_files_are_sent(there, small_disk, job):
    """Nobody can know what others write meanwhile: here `df` is told to be an optimist."""
    programs = small_disk.parent / "bin"
    programs.mkdir()
    (programs / "df").write_text("#!/bin/sh\necho\necho - - - 99999999\n")
    (programs / "df").chmod(0o755)
    there.environment["PATH"] = f"{programs}:{there.environment['PATH']}"
    error = refusal(replace(target_on(there), folder=str(small_disk)), None, job)
    assert error.reason == "disk"
    assert "No space left on device" in str(error)
    assert_nothing_is_left(there)
    assert list(small_disk.iterdir()) == []


@pytest.mark.slow
def test_a_device_without_memory_for_the_job(there, job):
    """The system itself refuses, by `ulimit -v`, wherever that strikes first."""
    there.wrap = "ulimit -v 300000; "
    error = refusal(target_on(there), None, job)
    assert error.reason == "memory"
    assert_nothing_is_left(there)


def test_the_extra_is_named_where_asyncssh_is_missing():
    code = (
        "import sys; sys.modules['asyncssh'] = None\n"
        "from costsim.hardware.targets.base import Watch, parse_target\n"
        "parse_target('ssh://host').session(Watch())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 'pip install "costsim[ssh]"' in done.stderr.splitlines()[-1]
