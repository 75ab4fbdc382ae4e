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
from counting import Counting, count, open_store
from waiting import PATIENCE_S, until

from costsim.base.errors import InputError
from costsim.studies.engine import Claim, Claims, Owner
from costsim.studies.engine.cell_store import EXPIRES_S
from costsim.studies.engine.local import LocalPool

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


def pids(folder: Path, cell: int) -> list[int]:
    """The workers that began a cell, in order."""
    return [int(pid) for pid in (folder / f"{cell}.tries").read_text().split()]


# Two runs on one store.


@pytest.mark.slow
def test_two_runs_share_the_cells(tmp_path: Path, begin: Begin) -> None:
    cells = 60
    runs = [begin(COUNTING, tmp_path, 2, cells, 0.1, "") for _ in range(2)]
    counts = [int(run.communicate(timeout=PATIENCE_S)[0]) for run in runs]
    assert tries(tmp_path, cells) == [1] * cells
    assert sum(counts) == cells
    assert all(counts)  # none ends a cell before both have begun one
    store = open_store(tmp_path / "store.sqlite")
    assert store.finished() == {str(cell) for cell in range(cells)}
    assert store.claimed() == frozenset()


@pytest.mark.slow
def test_cells_of_a_killed_run_are_done_by_the_other(tmp_path: Path, begin: Begin) -> None:
    cells = 50
    store = open_store(tmp_path / "store.sqlite")
    ours = Owner.of(os.getpid())
    store.claim("49", ours)  # nobody is done before we let go of it
    killed, other = (begin(COUNTING, tmp_path, 2, cells, 0.1, "") for _ in range(2))
    until(lambda: len(store.finished()) >= 10 and _workers_of(killed.pid, tmp_path))
    workers = _workers_of(killed.pid, tmp_path)
    killed.kill()
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
        first, second = pids(tmp_path, cell)
        assert first in workers
        assert second not in workers
    assert here == sum(pids(tmp_path, cell)[-1] not in workers for cell in range(cells))


def _workers_of(pid: int, folder: Path) -> set[int]:
    """Processes that `pid` started, itself or through others, and that have begun cells."""
    begun = {int(line) for file in folder.glob("*.tries") for line in file.read_text().split()}
    found, waiting = set[int](), [pid]
    while waiting:
        parent = waiting.pop()
        with suppress(OSError):  # it has ended meanwhile
            text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
            waiting += [int(child) for child in text.split()]
        found.add(parent)
    return found & begun


def test_a_run_that_is_killed_alone_leaves_its_cells_to_the_next(
    tmp_path: Path, begin: Begin
) -> None:
    """Its processes end with it, however long their cells last."""
    killed = begin(COUNTING, tmp_path, 1, 4, 60, "")
    store = open_store(tmp_path / "store.sqlite")
    until(lambda: len(_workers_of(killed.pid, tmp_path)) == 2)  # a file may still be empty
    workers = [Owner.of(pid) for pid in _workers_of(killed.pid, tmp_path)]
    assert len(workers) == len(store.claimed()) == 2
    killed.kill()
    killed.communicate()
    assert store.claimed() == frozenset()
    until(lambda: not any(worker.lives() for worker in workers))
    assert count(Counting(tmp_path, 0), 4, 1) == 4
    assert store.finished() == set("0123")


@pytest.mark.slow
def test_what_failed_at_another_run_is_not_tried_again_by_this_one(
    tmp_path: Path, begin: Begin
) -> None:
    cells = 24
    runs = [begin(COUNTING, tmp_path, 2, cells, 0.1, "", 3, 11) for _ in range(2)]
    assert sum(int(run.communicate(timeout=PATIENCE_S)[0]) for run in runs) == cells
    assert tries(tmp_path, cells) == [1] * cells
    # The next run does try again.
    assert count(Counting(tmp_path, 0), cells, 1) == 2
    assert tries(tmp_path, cells) == [2 if cell in (3, 11) else 1 for cell in range(cells)]


@pytest.mark.slow
def test_what_cells_share_is_made_once_whoever_makes_it(tmp_path: Path, begin: Begin) -> None:
    cells = 40
    runs = [begin(COUNTING, tmp_path, 2, cells, 0.05, "shares") for _ in range(2)]
    assert sum(int(run.communicate(timeout=PATIENCE_S)[0]) for run in runs) == cells
    assert tries(tmp_path, cells) == [1] * cells
    made = [Counting(tmp_path).tries(f"shared-{ten}") for ten in range(cells // 10)]
    assert made == [1] * len(made)
    rows = open_store(tmp_path / "store.sqlite").rows([str(cell) for cell in range(cells)])
    told = [row["reason"] for row in rows]
    assert {told[cell] for cell in range(10)} == {"", "of document 0"}
    assert told.count("") == len(made)  # all others were given it


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
    with Claims(store) as claims:
        assert claims.take("1") is Claim.MINE
        assert claims.take("2") is Claim.MINE
        assert claims.held() == frozenset()
        assert store.claimed() == {"1", "2"}
        claims.release("2")
        assert store.claimed() == {"1"}
        _age(store.path, 1000)
        until(lambda: _confirmed_s(store.path) > time.time() - 100)
    assert store.claimed() == frozenset()


def _confirmed_s(path: Path) -> float:
    with closing(sqlite3.connect(path)) as database, database:
        return float(database.execute("SELECT confirmed_s FROM claims").fetchone()[0])


def test_what_another_run_is_at_is_waited_for_and_taken_over(tmp_path: Path, begin: Begin) -> None:
    store = open_store(tmp_path / "store.sqlite")
    sleeper = begin(*SLEEP)
    store.claim("2", Owner.of(sleeper.pid))
    store.write({"key": "3", "status": "done"})
    run = begin(COUNTING, tmp_path, 1, 5, 0, "")
    until(lambda: len(store.finished()) == 4)
    assert run.poll() is None
    assert tries(tmp_path, 5) == [1, 1, 0, 0, 1]
    sleeper.kill()
    assert run.communicate(timeout=PATIENCE_S)[0] == "4\n"
    assert tries(tmp_path, 5) == [1, 1, 1, 0, 1]
    sleeper.wait()


# Processes that die.


def test_a_process_that_dies_costs_only_its_cell(tmp_path: Path) -> None:
    work = Counting(tmp_path, dies=(3,), once=(6,))
    assert count(work, 12, 2) == 12
    rows = {
        row["key"]: row
        for row in open_store(tmp_path / "store.sqlite").rows([str(cell) for cell in range(12)])
    }
    assert rows["3"]["status"] == "failed"
    assert rows["3"]["reason"] == "the process that computed it died 2 times (killed by signal 9)"
    assert {row["status"] for key, row in rows.items() if key != "3"} == {"done"}
    assert tries(tmp_path, 12) == [2 if cell in (3, 6) else 1 for cell in range(12)]


def test_a_process_that_dies_while_it_has_nothing_to_do_costs_nothing() -> None:
    with LocalPool(1) as pool:
        (seat,) = pool.seats()
        pid = seat.submit(os.getpid).result(PATIENCE_S)
        dead = Owner.of(pid)
        os.kill(pid, signal.SIGKILL)
        until(lambda: dead.lives() is False)
        until(lambda: seat.submit(os.getpid).exception(PATIENCE_S) is None)
        second = seat.submit(os.getpid).result(PATIENCE_S)
        assert second != pid
    assert Owner.of(second).lives() is not True


def test_an_error_of_a_cell_is_its_row(tmp_path: Path) -> None:
    assert count(Counting(tmp_path, fails=(1,)), 3, 1) == 3
    row = open_store(tmp_path / "store.sqlite").rows(["1"])[0]
    assert (row["status"], row["reason"]) == ("failed", "ValueError: as it was told to")


# Ctrl-C.


SLOW = """
import sys, time
from pathlib import Path
from counting import Counting, count

if __name__ == "__mp_main__":
    Path("importing").touch()
    time.sleep(1)

if __name__ == "__main__":
    try:
        count(Counting(Path.cwd(), 60), 1, 1)
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.parametrize("moment", ["importing", "0.tries"])
def test_an_interrupt_ends_all_processes_and_they_say_nothing(moment: str, tmp_path: Path) -> None:
    """Also one that has hardly begun."""
    (tmp_path / "slow.py").write_text(SLOW)
    run = subprocess.Popen(
        [sys.executable, "slow.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(COUNTING.parent)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until(lambda: (tmp_path / moment).exists())
    os.killpg(run.pid, signal.SIGINT)
    _, err = run.communicate(timeout=60)
    assert (run.returncode, err) == (130, "")
    until(lambda: not _lives(run.pid))
    assert open_store(tmp_path / "store.sqlite").claimed() == frozenset()


def _lives(group: int) -> bool:
    """Whether a process of a session is left that has not ended."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, session, *_ = stat.read_text().rpartition(")")[2].split()
            if int(session) == group and state not in "ZX":
                return True
    return False


# A disk that is full.


FULL = """
import resource, signal, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
from counting import open_store
from costsim.base.errors import InputError
from costsim.studies.engine.local import LocalPool
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
    assert done.stdout.startswith(f"{path}: cannot be used as a study: ")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_takes_no_store_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    open_store(path).write({"key": "a", "status": "done"})
    run = [sys.executable, "-c", FULL, str(path), "0"]
    done = subprocess.run(run, capture_output=True, text=True, check=True, cwd=COUNTING.parent)
    assert done.stdout.startswith(f"{path}: cannot be used as a study: ")
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


# A file whose rows are not those that were written.

CHANGES = {
    "another answer": "UPDATE cells SET reason = 'no' WHERE key = '1'",
    "a row is gone": "DELETE FROM cells WHERE key = '1'",
    "a row of nobody": "INSERT INTO cells SELECT '1', status, reason FROM cells WHERE key = '0'",
}


def stored(path: Path, *cells: str) -> None:
    store = open_store(path)
    for cell in cells:
        store.write({"key": cell, "status": "done", "reason": f"told of {cell}"})


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_row_that_is_not_as_it_was_written_is_named(change: str, tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    stored(path, *(["0"] if change.startswith("INSERT") else ["0", "1"]))
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(change)
    with pytest.raises(InputError, match="is damaged: the row of cell '1' is not as it was"):
        open_store(path)


def test_a_byte_that_a_disk_changed_is_noticed(tmp_path: Path) -> None:
    """SQLite itself reads the file without a word."""
    path = tmp_path / "store.sqlite"
    stored(path, "0", "1")
    whole = path.read_bytes()
    assert whole.count(b"told of 1") == 1
    path.write_bytes(whole.replace(b"told of 1", b"tolt of 1"))
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    with pytest.raises(InputError, match="is damaged: the row of cell '1' is not as it was"):
        open_store(path)
