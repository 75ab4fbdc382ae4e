"""Why a job was killed: for memory, by the kernel's own word, or by somebody else."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from targeting import FOREVER, make_job, with_options

from costsim.hardware.targets.base import TargetError, Watch, parse_target
from costsim.hardware.targets.local import LocalSession
from costsim.hardware.targets.out_of_memory import NEAR, Evidence
from costsim.hardware.targets.worker_answer import outcome_of

LIMIT = 160 << 20
"""Bytes in which a worker starts, but PyTorch does not."""


def machine(root: Path, *, version: int, kills: int, everywhere: int = 0) -> Path:
    """A made-up `/` in which process 7 is in a group of so many kills."""
    files = {
        "proc/vmstat": f"oom_kill {everywhere}\n",
        "proc/7/status": "VmPeak:  99 kB\nVmHWM:\t  9 kB\nVmRSS:  5 kB\n",
        "proc/meminfo": "MemTotal:  1000 kB\nMemFree: 1 kB\n",
    }
    if version == 2:
        files["proc/7/cgroup"] = "0::/user/job\n"
        files["sys/fs/cgroup/user/memory.max"] = "400000\n"
        files["sys/fs/cgroup/user/job/memory.max"] = "max\n"
        files["sys/fs/cgroup/user/job/memory.events"] = f"oom 5\noom_kill {kills}\n"
    else:
        files["proc/7/cgroup"] = "4:cpu,memory:/job\n1:name=systemd:/\n"
        files["sys/fs/cgroup/memory/job/memory.limit_in_bytes"] = "300000\n"
        files["sys/fs/cgroup/memory/memory.limit_in_bytes"] = f"{2**63 - 4096}\n"
        files["sys/fs/cgroup/memory/job/memory.oom_control"] = f"under_oom 0\noom_kill {kills}\n"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(("version", "limit"), [(1, 300000), (2, 400000)])
def test_the_group_s_own_counter_decides(tmp_path: Path, version: int, limit: int) -> None:
    evidence = Evidence(7, machine(tmp_path, version=version, kills=3))
    assert evidence.gather() == {
        "by": None, "told": True, "peak_bytes": 9 * 1024, "limit_bytes": limit
    }  # fmt: skip
    machine(tmp_path, version=version, kills=4, everywhere=1)
    assert evidence.gather()["by"] == "group"
    machine(tmp_path, version=version, kills=3, everywhere=1)
    assert evidence.gather()["by"] == "machine"


def test_the_log_names_the_process(tmp_path: Path) -> None:
    evidence = Evidence(7, machine(tmp_path, version=2, kills=0))
    (tmp_path / "dev").mkdir()
    log = tmp_path / "dev" / "kmsg"
    log.write_text("6,1,2,-;Out of memory: Killed process 77 (python)\n")
    assert evidence.gather()["by"] is None
    log.write_text("6,1,2,-;Memory cgroup out of memory: Killed process 7 (python)\n")
    assert evidence.gather()["by"] == "log"


def test_a_system_that_tells_nothing_is_not_taken_at_its_word(tmp_path: Path) -> None:
    assert Evidence(7, tmp_path).gather() == {
        "by": None, "told": False, "peak_bytes": 0, "limit_bytes": None
    }  # fmt: skip


def told(**memory: object) -> TargetError:
    with pytest.raises(TargetError) as caught:
        outcome_of(
            parse_target("local"), {"returncode": -9, "ended": "exit", "memory": memory}, {}, 1.0
        )
    return caught.value


@pytest.mark.parametrize(
    ("by", "tells", "share", "reason", "words"),
    [
        ("group", True, 0.1, "memory", "the kernel killed the job because memory ran out"),
        ("log", True, 0.1, "memory", "the kernel killed the job because memory ran out"),
        ("machine", True, 0.1, "memory", "the kernel killed for want of memory meanwhile"),
        (None, True, 1.01 * NEAR, "memory", "most likely because memory ran out"),
        (None, True, 0.99 * NEAR, "failed", "the kernel says that it was not for want of memory"),
        (None, False, 0.1, "failed", "the system does not tell whether memory ran out"),
    ],
)
def test_each_finding_has_its_sentence(
    by: str | None, tells: bool, share: float, reason: str, words: str
) -> None:
    error = told(by=by, told=tells, peak_bytes=int(share * 2**30), limit_bytes=2**30)
    assert error.reason == reason
    assert words in str(error)
    assert str(error).endswith("of 1 GiB")


@given(
    st.dictionaries(
        st.sampled_from(["by", "told", "peak_bytes", "limit_bytes"]),
        st.none() | st.text() | st.integers() | st.booleans() | st.lists(st.integers()),
    )
)
def test_a_device_that_answers_nonsense_still_gives_one_line(memory: dict[str, object]) -> None:
    assert "\n" not in str(told(**memory))


def test_a_shell_s_way_of_saying_it_is_understood() -> None:
    with pytest.raises(TargetError, match="SIGKILL"):
        outcome_of(parse_target("local"), {"returncode": 137, "ended": "exit"}, {}, 1.0)


def test_what_a_process_holds_is_seen_without_what_its_starter_does() -> None:
    """However much this process holds: a small one is seen to be small, and to have grown."""
    code = "x = bytearray(80 << 20); print('grown', flush=True); input()"
    ours = bytearray(256 << 20)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    evidence = Evidence(process.pid)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"grown\n"
        evidence.look()
        process.kill()
    assert len(ours) > 256 << 19
    assert 80 << 20 < evidence.gather()["peak_bytes"] < 160 << 20


@pytest.mark.slow
def test_a_local_job_that_somebody_killed(tmp_path: Path) -> None:
    job = with_options(make_job(tmp_path), steps=FOREVER)

    def kill(what: str, _done: int, _total: int) -> None:
        if what.startswith("timing the step"):
            assert isinstance(session, LocalSession)
            with suppress(ProcessLookupError):
                os.kill(session.process.pid, signal.SIGKILL)

    with (
        pytest.raises(TargetError) as caught,
        parse_target("local").session(Watch(kill)) as session,
    ):
        session.perform(job)
    assert caught.value.reason == "failed"
    assert "something killed the job (SIGKILL)" in str(caught.value)
    assert "it held " in str(caught.value)


@pytest.fixture
def small_group():
    """A memory control group of `LIMIT` bytes, real."""
    top = Path("/sys/fs/cgroup")
    old = (top / "memory").is_dir()
    folder = (top / "memory" if old else top) / f"costsim-{os.getpid()}-{threading.get_ident()}"
    if any(line.startswith("/") for line in Path("/proc/swaps").read_text().splitlines()):
        pytest.skip("this machine swaps before it kills")
    try:
        folder.mkdir()
        limit = "memory.limit_in_bytes" if old else "memory.max"
        (folder / limit).write_text(str(LIMIT))
    except OSError as error:
        if folder.is_dir():
            folder.rmdir()
        pytest.skip(f"control groups cannot be made here: {error.strerror}")
    yield folder
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            folder.rmdir()
            break
        except OSError:
            time.sleep(0.05)


def test_the_kernel_kills_for_memory_and_says_so(small_group: Path) -> None:
    """Really: a group in which PyTorch does not fit. The worker goes, not whoever started it."""
    code = f"""
import json, os, sys
from pathlib import Path
from costsim.hardware.targets.base import TargetError, Watch, parse_target
from costsim.hardware.targets.job import KernelJob
from costsim.hardware.targets.probe import RUNNER
Path({str(small_group / "cgroup.procs")!r}).write_text(str(os.getpid()))
try:
    with parse_target("local").session(Watch()) as session:
        session.perform(KernelJob(RUNNER, {{}}))
except TargetError as error:
    print(json.dumps([error.reason, str(error)]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    reason, message = json.loads(done.stdout or "null") or (done.returncode, done.stderr)
    assert reason == "memory", message
    assert "the kernel killed the job because memory ran out: it held " in message
    assert message.endswith("of 160 MiB")
