"""The engine of studies, with every kind there is: local and on a cluster, killed and resumed."""

import json
import os
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from costsim.solvers import make_solver
from counting import Counting, Counts
from dask_cluster import Cluster
from fork_server import DEVNULL, PIPE, run, start
from waiting import until

from costsim.base.errors import InputError
from costsim.cli import main
from costsim.learning.methods import make_method
from costsim.studies.engine import Kind, Owner, StudyStore, parse_study, read_study, run_study
from costsim.studies.engine.cell import Cell
from costsim.studies.engine.cluster import connected
from costsim.studies.methods import MethodStudies
from costsim.studies.solvers import SolverStudies


@dataclass(frozen=True)
class Sample:
    """A small study of one kind, and the command that runs it.

    `clocks` are columns that no two runs fill alike. `deadly` is the kind with a maker that takes
    its process with it at `at`, a column and its value.
    """

    command: str
    kind: Kind[Any]
    document: dict[str, Any]
    clocks: tuple[str, ...]
    deadly: Kind[Any]
    at: tuple[str, str]

    def cells(self, **changes: Any) -> tuple[Cell, ...]:
        """The cells of the document, parts of it replaced."""
        return parse_study({**self.document, **changes}, "study", self.kind).cells()

    def file(self, folder: Path) -> Path:
        """The document as a file."""
        path = folder / "study.yaml"
        path.write_text(json.dumps(self.document))  # JSON is YAML
        return path

    def answers(self, store: StudyStore[Any]) -> list[dict[str, Any]]:
        """All rows without what clocks fill."""
        rows = store.rows_of(self.cells())
        return [{k: v for k, v in row.items() if k not in self.clocks} for row in rows]

    def run_command(self, file: Path, store: Path, *options: str) -> list[str]:
        """The command line, after the name of the program."""
        return [self.command, str(file), "--store", str(store), *options]


def deadly_solver(name: str, **options: Any) -> Any:
    """Stands for a solver that takes its process with it."""
    if name == "none":
        os.kill(os.getpid(), signal.SIGKILL)
    return make_solver(name, **options)


def deadly_method(name: str) -> Any:
    """Stands for a method that takes its process with it."""
    if name == "LastLayer":
        os.kill(os.getpid(), signal.SIGKILL)
    return make_method(name)


METHOD_STUDIES = MethodStudies()

SAMPLES = {
    "solvers": Sample(
        command="compare",
        kind=SolverStudies(make_solver),
        document={
            "solvers": ["exact", "none"],
            "devices": ["stm32f746", "jetson-nano"],
            "tasks": [{"data": "digits", "seeds": [0, 1], "ways": 3, "shots": 1}],
            "settings": {"inspect": 4, "resolution": 32},
        },
        clocks=("seconds",),
        deadly=SolverStudies(deadly_solver),
        at=("solver", "none"),
    ),
    "methods": Sample(
        command="study",
        kind=METHOD_STUDIES,
        document={
            "models": [{"model": "mcunet-5fps", "resolution": 32}],
            "methods": ["None", "LastLayer"],
            "domains": ["digits"],
            "seeds": 4,
            "episode": {"ways": 3, "shots": 1, "queries": 3},
            "settings": {"iterations": 1},
        },
        clocks=("selection_here_s", "training_here_s"),
        deadly=replace(METHOD_STUDIES, make_method=deadly_method),
        at=("method", "LastLayer"),
    ),
}
CELLS = 8

COSTSIM = ("-m", "costsim")


@pytest.fixture(params=list(SAMPLES.values()), ids=list(SAMPLES))
def sample(request: pytest.FixtureRequest) -> Sample:
    """Each kind in turn."""
    found: Sample = request.param
    return found


@pytest.fixture(
    params=[
        pytest.param(SAMPLES["solvers"], id="solvers"),
        pytest.param(SAMPLES["methods"], id="methods", marks=pytest.mark.slow),
    ]
)
def quick_sample(request: pytest.FixtureRequest) -> Sample:
    """One kind, and by `make slow` the other: for what the engine does with commands of any."""
    found: Sample = request.param
    return found


def test_every_kind_has_a_sample_here() -> None:
    sources = Path(__file__).parents[2].joinpath("costsim").rglob("*.py")
    kinds = {
        name
        for source in sources
        for name in re.findall(r"^class (\w+)\(Kind\[\w+\]\):", source.read_text(), re.MULTILINE)
    }
    assert {type(sample.kind).__name__ for sample in SAMPLES.values()} == kinds


# A file, its cells, its store.


def test_a_file_is_the_product_of_its_lists(sample: Sample, tmp_path: Path) -> None:
    cells = read_study(sample.file(tmp_path), sample.kind).cells()
    assert [cell.key for cell in cells] == [cell.key for cell in sample.cells()]
    assert len({cell.key for cell in cells}) == CELLS
    assert all(cell.head["key"] == cell.key for cell in cells)
    assert {name for cell in cells for name in cell.head} <= set(sample.kind.columns)


def test_a_file_of_another_kind_is_refused_with_its_keys(sample: Sample, tmp_path: Path) -> None:
    for other in SAMPLES.values():
        if other is not sample:
            with pytest.raises(InputError, match=r": \w+: unknown key; (did.*\? )?allowed are "):
                read_study(other.file(tmp_path), sample.kind)


def test_a_store_of_another_kind_is_refused_and_stays(sample: Sample, tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    StudyStore(path, sample.kind)
    before = path.read_bytes()
    for other in SAMPLES.values():
        if other is not sample:
            with pytest.raises(InputError, match=f"has schemas {sample.kind.schema}; "):
                StudyStore(path, other.kind)
    assert path.read_bytes() == before


def test_a_device_file_that_changes_during_a_run_is_told(tmp_path: Path, sample: Sample) -> None:
    device = tmp_path / "board.yaml"
    text = (Path(__file__).parents[2] / "devices" / "jetson-nano.yaml").read_text()
    device.write_text(text)
    cell = sample.cells(devices=[str(device)])[0]
    device.write_text(text.replace("name: jetson-nano", "name: another", 1))
    row = sample.kind.workshop().computed(cell).row
    assert row["status"] == sample.kind.broken
    assert row["reason"] == f"{device}: has changed since the study began; start it again"


# Runs.


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Sample], list[dict[str, Any]]]:
    """What all cells of a sample give where one process computes them in their order."""
    found: dict[str, list[dict[str, Any]]] = {}

    def answers(sample: Sample) -> list[dict[str, Any]]:
        if sample.command not in found:
            folder = tmp_path_factory.mktemp("whole")
            store = StudyStore(folder / "s.sqlite", sample.kind)
            workshop = sample.kind.workshop()
            for cell in sample.cells():
                key = cell.shared_key
                computed = workshop.computed(cell, None if key is None else store.shared(key))
                if key is not None and computed.shared is not None:
                    store.keep_shared(key, computed.shared)
                store.write(computed.row)
            found[sample.command] = sample.answers(store)
        return found[sample.command]

    return answers


Whole = Callable[[Sample], list[dict[str, Any]]]


def rows_in(path: Path) -> dict[str, tuple[Any, ...]]:
    """All rows by their keys, to the last digit of their clocks."""
    if not path.exists():
        return {}
    with closing(sqlite3.connect(path)) as database, database:
        return {row[0]: row for row in database.execute("SELECT * FROM cells")}


def test_a_killed_run_goes_on_without_losing_or_repeating_a_cell(
    quick_sample: Sample, whole: Whole, tmp_path: Path
) -> None:
    sample = quick_sample
    path, ours = tmp_path / "s.sqlite", Owner.of(os.getpid())
    store = StudyStore(path, sample.kind)
    store.claim(sample.cells()[-1].key, ours)  # it is not over before it is killed
    command = sample.run_command(sample.file(tmp_path), path, "--jobs", "2")
    process = start([*COSTSIM, *command], stdout=DEVNULL, stderr=DEVNULL)
    try:
        until(lambda: len(rows_in(path)) >= 3)
    finally:
        process.kill()
        process.wait()
    store.release([ours])
    assert store.claimed() == frozenset()  # its claims ended with it
    before = rows_in(path)
    assert 3 <= len(before) < CELLS
    done = run([*COSTSIM, *command, "--json"])
    assert done.returncode == 0, done.stderr
    assert f"{CELLS - len(before)} of {CELLS} cells computed" in done.stderr
    after = rows_in(path)
    assert len(after) == CELLS
    assert {key: after[key] for key in before} == before  # none was computed twice
    assert sample.answers(store) == whole(sample)
    assert isinstance(json.loads(done.stdout), dict)


def test_what_is_finished_is_shown_without_torch(
    sample: Sample, whole: Whole, tmp_path: Path
) -> None:
    store = StudyStore(tmp_path / "s.sqlite", sample.kind)
    for row in whole(sample):
        store.write({**row, **dict.fromkeys(sample.clocks, 0.5)})
    arguments = [sample.command, str(sample.file(tmp_path)), "--store", str(store.path)]
    arguments += ["--csv", str(tmp_path / "rows.csv"), "--report", str(tmp_path / "page.html")]
    if sample.command == "study":
        arguments += ["--show", "--latex", str(tmp_path / "table.tex")]
    code = (
        "import sys; from costsim.cli import main; "
        f"assert main({arguments!r}) == 0; assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "page.html").stat().st_size > 1000
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == CELLS + 1


def test_two_commands_at_once_share_the_cells(
    quick_sample: Sample, whole: Whole, tmp_path: Path
) -> None:
    sample = quick_sample
    path, file = tmp_path / "s.sqlite", sample.file(tmp_path)
    # Every row that anybody tries to write.
    with closing(sqlite3.connect(StudyStore(path, sample.kind).path)) as database, database:
        database.execute("CREATE TABLE written (key TEXT)")
        database.execute(
            "CREATE TRIGGER log BEFORE INSERT ON cells BEGIN INSERT INTO written VALUES (new.key); "
            "END"
        )
    command = sample.run_command(file, path, "--jobs", "1", "--json")
    runs = [start([*COSTSIM, *command], stdout=PIPE, stderr=PIPE) for _ in range(2)]
    told = [one.communicate() for one in runs]
    assert [one.returncode for one in runs] == [0, 0], told
    counts = [re.search(rf"(\d+) of {CELLS} cells computed", err) for _, err in told]
    assert sum(int(found[1]) for found in counts if found) == CELLS
    assert told[0][0] == told[1][0]  # both show everything
    with closing(sqlite3.connect(path)) as database, database:
        logged = [row[0] for row in database.execute("SELECT key FROM written")]
    assert sorted(logged) == sorted(cell.key for cell in sample.cells())
    assert sample.answers(StudyStore(path, sample.kind)) == whole(sample)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_a_store_to_go_on_with(
    how: signal.Signals, sample: Sample, tmp_path: Path
) -> None:
    path, ours = tmp_path / "s.sqlite", Owner.of(os.getpid())
    store = StudyStore(path, sample.kind)
    store.claim(sample.cells()[-1].key, ours)  # it is not over before it is interrupted
    process = start(
        [*COSTSIM, *sample.run_command(sample.file(tmp_path), path, "--jobs", "2")],
        stdout=DEVNULL,
        stderr=PIPE,
        start_new_session=True,
    )
    until(lambda: rows_in(path))
    if how is signal.SIGINT:
        os.killpg(process.pid, how)  # as a terminal does
    else:
        process.send_signal(how)
    _, told = process.communicate()
    assert process.returncode == 130, told
    *progress, line = told.splitlines()
    assert line == "costsim: interrupted"
    assert [text for text in progress if f"{sample.kind.doing}: " not in text] == []
    assert 1 <= len(store.finished()) < CELLS
    assert store.claimed(aside=[ours]) == frozenset()


@pytest.mark.slow
def test_a_cell_that_kills_its_process_is_found_and_named(sample: Sample, tmp_path: Path) -> None:
    store = StudyStore(tmp_path / "s.sqlite", sample.kind)
    run_study(sample.cells(), store, sample.deadly, workers=2)
    reason = "the process that computed it died 2 times (killed by signal 9)"
    assert_named(sample, store, reason)


def assert_named(sample: Sample, store: StudyStore[Any], reason: str) -> None:
    """Of the cells that kill their process there is a row that says so, of all others an answer."""
    column, deadly = sample.at
    rows = store.rows_of(sample.cells())
    assert len(rows) == CELLS
    for row in rows:
        broken = row["status"] == sample.kind.broken
        assert broken == (row[column] == deadly), row
        if broken:
            assert row["reason"] == reason


@pytest.mark.slow
def test_a_long_study_takes_time_and_memory_in_proportion(tmp_path: Path) -> None:
    def driven(cells: int) -> tuple[float, int]:
        """CPU seconds of this process, and how much its memory has grown, in KiB."""
        folder = tmp_path / str(cells)
        folder.mkdir()
        kind = Counting(folder, seconds=0)
        begun, before = time.process_time(), peak()
        assert run_study(Counts(cells).cells(), StudyStore(folder / "s", kind), kind) == cells
        return time.process_time() - begun, peak() - before

    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    few_s, _ = driven(1000)
    many_s, grown = driven(5000)
    assert many_s < 5 * few_s * 3  # were it by the square it would be 25
    assert grown < 40 * 1024


# A real Dask scheduler, and workers that are added and killed.


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    pytest.importorskip("distributed")
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        yield cluster
    finally:
        cluster.stop()


def test_without_workers_there_is_one_clear_line(
    sample: Sample, cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = sample.run_command(sample.file(tmp_path), tmp_path / "s.sqlite")
    assert main([*command, "--scheduler", cluster.address]) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if "costsim: note: " not in line]
    assert told == [f"costsim: --scheduler {cluster.address}: has no workers"]


@pytest.fixture(scope="module")
def staffed(cluster: Cluster) -> Cluster:
    """The cluster with two workers."""
    for _ in range(2):
        cluster.add_worker()
    return cluster


def test_a_cluster_gives_the_rows_of_local_processes(
    sample: Sample, whole: Whole, staffed: Cluster, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = tmp_path / "s.sqlite"
    command = sample.run_command(sample.file(tmp_path), path)
    assert main([*command, "--scheduler", staffed.address, "--json"]) == 0
    out, err = capsys.readouterr()
    assert isinstance(json.loads(out), dict)
    assert f"{CELLS} of {CELLS} cells computed" in err
    assert sample.answers(StudyStore(path, sample.kind)) == whole(sample)
    assert main([*command, "--scheduler", staffed.address, "--json"]) == 0
    assert f"0 of {CELLS} cells computed" in capsys.readouterr().err


@pytest.mark.slow
def test_workers_of_a_cluster_that_die_cost_only_their_cells(
    sample: Sample, tmp_path: Path
) -> None:
    pytest.importorskip("distributed")
    cluster = Cluster(tmp_path)
    try:
        for _ in range(2):
            cluster.add_worker(nanny=True)
        store = StudyStore(tmp_path / "s.sqlite", sample.kind)
        run_study(sample.cells(), store, sample.deadly, scheduler=cluster.address)
    finally:
        cluster.stop()
    assert_named(sample, store, "the workers died at it")


@pytest.mark.slow
def test_a_scheduler_that_dies_is_one_line_and_costs_nothing_finished(
    sample: Sample, tmp_path: Path
) -> None:
    pytest.importorskip("distributed")
    cluster = Cluster(tmp_path)
    path, ours = tmp_path / "s.sqlite", Owner.of(os.getpid())
    store = StudyStore(path, sample.kind)
    store.claim(sample.cells()[-1].key, ours)  # it is not over before the scheduler dies
    try:
        cluster.add_worker()
        command = sample.run_command(sample.file(tmp_path), path, "--scheduler", cluster.address)
        process = start([*COSTSIM, *command], stdout=DEVNULL, stderr=PIPE)
        until(lambda: len(store.finished()) >= 3)
        cluster.processes[0].kill()
        _, err = process.communicate()
    finally:
        cluster.stop()
    *progress, line = err.splitlines()
    assert process.returncode == 2
    assert [told for told in progress if f"{sample.kind.doing}: " not in told] == []
    assert line.startswith(f"costsim: --scheduler {cluster.address}: is gone")
    assert 3 <= len(store.finished()) < CELLS


@pytest.mark.slow
def test_without_a_worker_left_the_run_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("costsim.studies.engine.cluster.WITHOUT_WORKERS_S", 2.0)
    cluster = Cluster(tmp_path)
    kind = Counting(tmp_path, dies=(5,))
    store = StudyStore(tmp_path / "s.sqlite", kind)
    try:
        cluster.add_worker()
        with pytest.raises(InputError, match="all workers are gone; what was finished is kept"):
            run_study(Counts(9).cells(), store, kind, scheduler=cluster.address)
    finally:
        cluster.stop()
    assert 0 < len(store.finished()) < 9


def test_a_worker_that_comes_later_is_used(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("costsim.studies.engine.cluster.WITHOUT_WORKERS_S", 0.1)
    cluster.add_worker()
    with connected(cluster.address) as pool:
        before = len(pool.seats())
        cluster.add_worker()
        time.sleep(0.1)
        assert len(pool.seats()) == before + 1


def test_without_dask_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(InputError, match=r'pip install "costsim\[cluster\]"'),
        connected("tcp://127.0.0.1:1"),
    ):
        pass
