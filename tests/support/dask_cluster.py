"""A Dask scheduler and its workers, in processes that the tests start."""

import json
import os
import signal
from pathlib import Path

import fork_server
from waiting import PATIENCE_S, until


def begin(module: str, *arguments: str) -> fork_server.Process:
    """A process of Dask that finds the helpers of tests and gives up a cell that has killed one."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[1] / "support"),
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1",
        "DASK_DISTRIBUTED__ADMIN__LOG_LENGTH": "0",
    }
    code = (
        "import sys, dask; dask.config.refresh()\n"  # which is loaded: its environment anew
        f"from distributed.cli.{module} import main\nmain(sys.argv[1:])"
    )
    return fork_server.start(
        ["-c", code, *arguments],
        stdout=fork_server.DEVNULL,
        stderr=fork_server.DEVNULL,
        env=environment,
    )


class Cluster:
    """A scheduler, and workers that are added and killed."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "scheduler.json"
        self.folder = folder
        self.processes = [
            begin("dask_scheduler", "--port", "0", "--host", "127.0.0.1", "--no-dashboard",
                  "--scheduler-file", str(self.file))
        ]  # fmt: skip
        try:
            until(self._is_up)
        except AssertionError:
            self.stop()
            raise
        self.address = json.loads(self.file.read_text())["address"]

    def _is_up(self) -> bool:
        """Whether the scheduler listens; fails at once where it has ended."""
        status = self.processes[0].poll()
        assert status is None, f"the scheduler has ended with status {status}"
        return self.file.exists() and self.file.read_text().endswith("}")

    def add_worker(self, *, nanny: bool = False) -> fork_server.Process:
        """One more; with a nanny there is a new one when it dies."""
        from distributed import Client

        before = len(self.processes)
        worker = begin(
            "dask_worker", self.address, "--nthreads", "1", "--no-dashboard",
            "--nanny" if nanny else "--no-nanny",
            "--local-directory", str(self.folder), "--host", "127.0.0.1",
        )  # fmt: skip
        self.processes.append(worker)
        with Client(  # type: ignore[no-untyped-call]
            self.address, set_as_default=False
        ) as client:
            client.wait_for_workers(before, timeout=PATIENCE_S)
        return worker

    def stop(self) -> None:
        """Ends every process, the scheduler last."""
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(2)
            except TimeoutError:
                process.kill()
                process.wait()
