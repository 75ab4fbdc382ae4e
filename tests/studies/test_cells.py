"""Cells that several runs share: claimed, taken over from the dead, never lost or repeated."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from counting import Counting, Keeping, keep, open_store
from waiting import PATIENCE_S, until

from costsim.base.errors import InputError
from costsim.studies.engine import Claim, Claims, Owner
from costsim.studies.engine.cell_store import EXPIRES_S

COUNTING = Path(__file__).parents[1] / "support" / "counting.py"
Begin = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Starts processes that are gone, and waited for, when the test is over."""
    running: list[subprocess.Popen[str]] = []

    def start(*command: object) -> "subprocess.Popen[str]":
        given = [sys.executable, *map(str, command)]
        running.append(subprocess.Popen(given, stdout=subprocess.PIPE, text=True))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


SLEEP = ("-c", "import time; time.sleep(600)")


def tries(folder: Path, cells: int) -> list[int]:
    return [Counting(folder).tries(cell) for cell in range(cells)]


# Two runs on one store.


def test_two_runs_share_the_cells(tmp_path: Path, begin: Begin) -> None:
    cells = 60
    runs = [begin(COUNTING, tmp_path, 2, cells, 0.1) for _ in range(2)]
    counts = [int(run.communicate(timeout=PATIENCE_S)[0]) for run in runs]
    assert tries(tmp_path, cells) == [1] * cells
    assert sum(counts) == cells
    assert all(counts)  # none ends a cell before both have begun one
    store = open_store(tmp_path / "store.sqlite")
    assert store.finished() == {str(cell) for cell in range(cells)}
    assert store.claimed() == frozenset()


def test_cells_of_a_killed_run_are_done_by_the_other(tmp_path: Path, begin: Begin) -> None:
    cells = 50
    store = open_store(tmp_path / "store.sqlite")
    ours = Owner.of(os.getpid())
    store.claim("49", ours)  # nobody is done before we let go of it
    killed, other = (begin(COUNTING, tmp_path, 2, cells, 0.1) for _ in range(2))
    until(lambda: len(store.finished()) >= 10 and _workers_of(killed.pid))
    workers = _workers_of(killed.pid)
    for pid in [killed.pid, *workers]:
        with suppress(ProcessLookupError):  # workers end with it
            os.kill(pid, signal.SIGKILL)
    killed.communicate()
    store.release([ours])
    here = int(other.communicate(timeout=PATIENCE_S)[0])
    assert other.returncode == 0
    assert store.finished() == {str(cell) for cell in range(cells)}
    counted = tries(tmp_path, cells)
    # Only what the killed one was at was begun again, and that by the other.
    again = [cell for cell in range(cells) if counted[cell] != 1]
    assert len(again) <= len(workers)
    for cell in again:
        first, second = (tmp_path / f"{cell}.tries").read_text().split()
        assert int(first) in workers
        assert int(second) not in workers
    last = [(tmp_path / f"{cell}.tries").read_text().split()[-1] for cell in range(cells)]
    assert here == sum(int(pid) not in workers for pid in last)


def _workers_of(pid: int) -> list[int]:
    """Processes that `pid` started and that compute cells."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(OSError):  # it has ended meanwhile
            if b"spawn_main" in Path("/proc", child, "cmdline").read_bytes():
                found.append(int(child))
    return found


def test_a_run_that_is_killed_alone_leaves_its_cells_to_the_next(
    tmp_path: Path, begin: Begin
) -> None:
    """Its processes end with it, however long their cells last."""
    killed = begin(COUNTING, tmp_path, 1, 4, 60)
    store = open_store(tmp_path / "store.sqlite")
    until(lambda: len(store.claimed()) == 2)
    killed.kill()
    killed.communicate()
    until(lambda: not store.claimed())
    assert keep(range(4), Keeping(tmp_path, 0), 1) == 4
    assert store.finished() == set("0123")


def test_what_failed_at_another_run_is_not_tried_again_by_this_one(
    tmp_path: Path, begin: Begin
) -> None:
    cells = 24
    runs = [begin(COUNTING, tmp_path, 2, cells, 0.1, 3, 11) for _ in range(2)]
    assert sum(int(run.communicate(timeout=PATIENCE_S)[0]) for run in runs) == cells
    assert tries(tmp_path, cells) == [1] * cells
    # The next run does try again.
    assert keep(range(cells), Keeping(tmp_path, 0), 1) == 2
    assert tries(tmp_path, cells) == [2 if cell in (3, 11) else 1 for cell in range(cells)]


# Claims.


def test_a_claim_lasts_as_long_as_its_process(tmp_path: Path, begin: Begin) -> None:
    store = open_store(tmp_path / "store.sqlite")
    sleeper = begin(*SLEEP)
    theirs, ours = Owner.of(sleeper.pid), Owner.of(os.getpid())
    assert store.claim("a", theirs) is Claim.MINE
    assert store.claim("a", theirs) is Claim.MINE
    assert store.claim("a", ours) is Claim.HELD
    assert store.claimed() == {"a"}
    assert store.claimed(aside=[theirs]) == frozenset()
    sleeper.kill()
    until(lambda: theirs.lives() is False)  # also while nobody has waited for it
    assert store.claimed() == frozenset()
    assert store.claim("a", ours) is Claim.MINE
    sleeper.wait()
    store.write({"key": "a", "status": "done"})
    assert store.claim("a", ours) is Claim.DONE
    assert store.claimed() == frozenset()


@pytest.mark.parametrize(
    "owner",
    [Owner("another boot", os.getpid(), "1"), Owner("another boot", 1)],
    ids=["started", "not told when"],
)
def test_a_claim_from_elsewhere_lapses_when_nobody_confirms_it(
    owner: Owner, tmp_path: Path
) -> None:
    store = open_store(tmp_path / "store.sqlite")
    assert Owner.parse(str(owner)) == owner
    assert owner.lives() is None
    store.claim("a", owner)
    ours = Owner.of(os.getpid())
    assert store.claim("a", ours) is Claim.HELD
    _age(store.path, 0.6 * EXPIRES_S)
    assert store.claim("a", ours) is Claim.HELD
    store.confirm([owner])
    _age(store.path, 0.6 * EXPIRES_S)
    assert store.claim("a", ours) is Claim.HELD
    _age(store.path, 0.4 * EXPIRES_S)
    assert store.claim("a", ours) is Claim.MINE


def _age(path: Path, seconds: float) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE claims SET confirmed_s = confirmed_s - ?", (seconds,))


def test_a_pid_that_was_given_again_is_another_process() -> None:
    here = Owner.of(os.getpid())
    assert here.lives() is True
    assert Owner(here.place, here.pid, here.started + "0").lives() is False


def test_a_run_confirms_its_claims_and_lets_go_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("costsim.studies.engine.claims.BEAT_S", 0.02)
    store = open_store(tmp_path / "store.sqlite")
    with Claims(store, str) as claims:
        assert claims.take(1, os.getpid()) is Claim.MINE
        assert claims.held() == frozenset()
        assert Claims(store, str).held() == {"1"}
        _age(store.path, 1000)
        until(lambda: _confirmed_s(store.path) > time.time() - 100)
    assert store.claimed() == frozenset()


def _confirmed_s(path: Path) -> float:
    with closing(sqlite3.connect(path)) as database, database:
        return float(database.execute("SELECT confirmed_s FROM claims").fetchone()[0])


def test_many_at_once_are_what_is_free_and_then_what_others_leave(
    tmp_path: Path, begin: Begin
) -> None:
    store = open_store(tmp_path / "store.sqlite")
    sleeper = begin(*SLEEP)
    store.claim("2", Owner.of(sleeper.pid))
    store.write({"key": "3", "status": "done"})
    with Claims(store, str) as claims:
        batches = claims.batches(range(5))
        assert next(batches) == [0, 1, 4]
        sleeper.kill()
        assert next(batches) == [2]
        assert list(batches) == []
    sleeper.wait()


# Ctrl-C.


SLOW = """
import sys, time
from pathlib import Path
from costsim.studies.engine import run_cells

if __name__ == "__mp_main__":
    Path("importing").touch()
    time.sleep(1)

def work(cell):
    Path("begun").touch()
    time.sleep(60)

if __name__ == "__main__":
    try:
        run_cells([0], work, workers=1, group_of=abs, died=print)
    except KeyboardInterrupt:
        sys.exit(130)
"""


def test_a_process_that_has_hardly_begun_says_nothing_of_an_interrupt(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    run = subprocess.Popen(
        [sys.executable, "slow.py"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until(lambda: (tmp_path / "importing").exists())
    os.killpg(run.pid, signal.SIGINT)
    _, err = run.communicate(timeout=60)
    assert (run.returncode, err) == (130, "")


# A disk that is full.


FULL = """
import resource, signal, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
from counting import open_store
from costsim.base.errors import InputError
try:
    open_store(Path(sys.argv[1]))
except InputError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [0, 1, 4096, 20_000])
def test_a_full_disk_leaves_no_empty_store(limit: int, tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    run = [sys.executable, "-c", FULL, str(path), str(limit)]
    done = subprocess.run(run, capture_output=True, text=True, check=True, cwd=COUNTING.parent)
    assert done.stdout.startswith(f"{path}: cannot be used as a count: ")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_takes_no_store_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    open_store(path).write({"key": "a", "status": "done"})
    run = [sys.executable, "-c", FULL, str(path), "0"]
    done = subprocess.run(run, capture_output=True, text=True, check=True, cwd=COUNTING.parent)
    assert done.stdout.startswith(f"{path}: cannot be used as a count: ")
    assert open_store(path).finished() == {"a"}


# A file of somebody else.


def tables(schema: str) -> list[str]:
    return [
        "CREATE TABLE meta (schema)",
        f"INSERT INTO meta VALUES ('{schema}')",
        "CREATE TABLE cells (key)",
    ]


OTHERS = {
    "another kind": tables("other/1"),
    "another program": ["CREATE TABLE bookmarks (url)"],
    "another version": tables("tests/1"),
}


@pytest.mark.parametrize("statements", OTHERS.values(), ids=OTHERS)
def test_a_file_of_something_else_is_refused_and_stays_as_it_is(
    statements: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "theirs.sqlite"
    with closing(sqlite3.connect(path)) as database, database:
        for statement in statements:
            database.execute(statement)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"theirs\.sqlite: (is no|has schemas|was made by)"):
        open_store(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
