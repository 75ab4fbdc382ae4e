"""The same study on a real Dask scheduler and workers that the tests start."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from waiting import until

from costsim.base.errors import InputError
from costsim.cli import main
from costsim.learning.adaptation import Situation
from costsim.learning.methods import METHODS, make_method
from costsim.learning.methods.none import NoAdaptation
from costsim.studies.methods import parse_study
from costsim.studies.methods.cluster import run_on_cluster
from costsim.studies.methods.runner import run_study
from costsim.studies.methods.store import open_store
from costsim.studies.methods.work import Workshop

pytest.importorskip("distributed")

DOCUMENT: dict[str, Any] = {
    "models": [{"model": "mcunet-5fps", "resolution": 32}],
    "methods": ["None", "LastLayer"],
    "domains": ["digits"],
    "seeds": 3,
    "episode": {"ways": 3, "shots": 1, "queries": 3},
    "settings": {"iterations": 1},
}


def start(module: str, *arguments: str) -> "subprocess.Popen[bytes]":
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[1] / "support"),
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1",
        "DASK_DISTRIBUTED__ADMIN__LOG_LENGTH": "0",
    }
    return subprocess.Popen(
        [sys.executable, "-m", f"distributed.cli.{module}", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
    )


class Cluster:
    """A scheduler, and workers that are added and killed."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "scheduler.json"
        self.folder = folder
        self.processes = [
            start("dask_scheduler", "--port", "0", "--host", "127.0.0.1", "--no-dashboard",
                  "--scheduler-file", str(self.file))
        ]  # fmt: skip
        deadline = time.monotonic() + 90
        while not self.file.exists() or not self.file.read_text().endswith("}"):
            assert time.monotonic() < deadline, "no scheduler"
            time.sleep(0.1)
        self.address = json.loads(self.file.read_text())["address"]

    def add_worker(self) -> "subprocess.Popen[bytes]":
        from distributed import Client

        before = len(self.processes)
        worker = start(
            "dask_worker", self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard",
            "--local-directory", str(self.folder), "--host", "127.0.0.1",
        )  # fmt: skip
        self.processes.append(worker)
        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(before, timeout=90)
        return worker

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        yield cluster
    finally:
        cluster.stop()


class Deadly(NoAdaptation):
    """Kills the process it is chosen in, for the task of seed 1."""

    def choose(self, situation: Situation) -> Any:
        if situation.task.seed == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().choose(situation)


def make_deadly(name: str) -> Any:
    return Deadly() if name == "LastLayer" else make_method(name)


def test_without_workers_there_is_one_clear_line(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(json.dumps(DOCUMENT))
    assert main(["study", str(file), "--scheduler", cluster.address]) == 2
    assert capsys.readouterr().err == f"costsim: --scheduler {cluster.address}: has no workers\n"


def test_a_cluster_gives_the_rows_of_local_processes(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.add_worker()
    file = tmp_path / "study.yaml"
    file.write_text(json.dumps(DOCUMENT))
    assert main(["study", str(file), "--scheduler", cluster.address, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["finished"] == 6
    assert "6 of 6 cells computed" in err
    cells = parse_study(DOCUMENT, "s", methods=tuple(METHODS), folder=tmp_path).cells()
    shop = Workshop()
    store = open_store(tmp_path / "study.sqlite", read_only=True)
    for cell, row in zip(cells, store.rows([cell.key for cell in cells]), strict=True):
        expected = shop.row(cell, make_method)
        for name, value in expected.items():
            assert name.endswith("_here_s") or row[name] == value, name
    assert main(["study", str(file), "--scheduler", cluster.address, "--json"]) == 0
    assert "0 of 6 cells computed" in capsys.readouterr().err


@pytest.mark.slow
def test_a_worker_that_dies_costs_only_its_cell(cluster: Cluster, tmp_path: Path) -> None:
    for _ in range(2):  # with the first test's, two may die and one is left
        cluster.add_worker()
    cells = parse_study(DOCUMENT, "s", methods=tuple(METHODS), folder=tmp_path).cells()
    store = open_store(tmp_path / "s.sqlite")
    run_study(cells, store, make_deadly, scheduler=cluster.address)
    rows = store.rows([cell.key for cell in cells])
    assert len(rows) == 6
    failed = [(row["method"], row["seed"]) for row in rows if row["status"] == "failed"]
    assert failed == [("LastLayer", 1)]
    (reason,) = (row["reason"] for row in rows if row["status"] == "failed")
    assert reason == "the workers died at it"


@pytest.mark.slow
def test_a_scheduler_that_dies_is_one_line_and_costs_nothing_finished(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    store = tmp_path / "study.sqlite"
    file = tmp_path / "study.yaml"
    file.write_text(json.dumps({**DOCUMENT, "seeds": 500}))
    try:
        cluster.add_worker()
        run = subprocess.Popen(
            [sys.executable, "-m", "costsim", "study", str(file), "--scheduler", cluster.address],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        until(lambda: store.exists() and len(open_store(store).finished()) > 3)
        cluster.processes[0].kill()
        _, err = run.communicate(timeout=90)
    finally:
        cluster.stop()
    *progress, line = err.splitlines()
    assert (run.returncode, [told for told in progress if "adapting" not in told]) == (2, [])
    assert line.startswith(f"costsim: --scheduler {cluster.address}: is gone")
    assert 3 < len(open_store(store).finished()) < 1000


@pytest.mark.slow
def test_without_a_worker_left_the_run_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("costsim.studies.methods.cluster.WITHOUT_WORKERS_S", 2.0)
    cluster = Cluster(tmp_path)
    store = open_store(tmp_path / "s.sqlite")
    cells = parse_study(DOCUMENT, "s", methods=tuple(METHODS), folder=tmp_path).cells()
    try:
        cluster.add_worker()
        with pytest.raises(InputError, match="all workers are gone; what was finished is kept"):
            run_study(cells, store, make_deadly, scheduler=cluster.address)
    finally:
        cluster.stop()
    assert 0 < len(store.finished()) < 6


def test_without_dask_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    cells = parse_study(DOCUMENT, "s", methods=tuple(METHODS), folder=tmp_path).cells()
    with pytest.raises(InputError, match=r'pip install "costsim\[cluster\]"'):
        run_on_cluster(
            cells, open_store(tmp_path / "s"), make_method, "tcp://127.0.0.1:1",
            died=lambda cell, reason: None, told=lambda: None,
        )  # fmt: skip
