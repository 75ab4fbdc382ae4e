"""A study on a Dask cluster that is there already.

Every cell is a task of its own, so that a worker that dies costs no more than the cell it was at.
Cells that share a task of images are sent to the same worker, which keeps what they share; another
may take them. Rows come back one by one and are written here, so that only this process needs the
store; files of data and weights must be at the same place on all workers.
"""

import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from costsim import __version__
from costsim.base.errors import InputError
from costsim.studies.engine import CellStore
from costsim.studies.methods.cells import Cell
from costsim.studies.methods.work import MakeMethod, workshop

TIMEOUT = "10s"
"""For the scheduler to answer."""

WITHOUT_WORKERS_S = 60.0
"""A cluster may be without workers for so long; others may come."""

POLL_S = 0.02

_ADDRESS = re.compile(r"(\w+://)?(\[[^\]]+\]|[^\[\]/:\s]+):\d{1,5}")


def run_on_cluster(
    cells: Sequence[Cell],
    store: CellStore,
    make_method: MakeMethod,
    address: str,
    *,
    died: Callable[[Cell, str], None],
    told: Callable[[], None],
) -> None:
    """Have all cells computed by the workers of the scheduler at `address`.

    Raises `InputError` where the package is missing, `address` is none, nobody answers, there are
    no workers or no longer any, or they have another version of costsim.
    """
    with _connected(address) as client:
        from distributed.scheduler import KilledWorker

        workers = sorted(client.scheduler_info(n_workers=-1)["workers"])
        _check_workers(client, workers, address)
        groups = list(dict.fromkeys(cell.situation_key for cell in cells))
        place = {group: workers[at % len(workers)] for at, group in enumerate(groups)}
        futures = {
            client.submit(
                compute,
                cell,
                make_method,
                key=f"costsim-{cell.key}",
                workers=[place[cell.situation_key]],
                allow_other_workers=True,
                pure=False,
            ): cell
            for cell in cells
        }
        for future in _ended(client, list(futures), address):
            cell = futures.pop(future)
            if future.status == "finished":
                store.write(future.result())
            elif future.status != "error":
                raise InputError(
                    f"--scheduler {address}: is gone; what was finished is kept, start again"
                )
            else:
                reason = future.exception()
                how = "died at it" if isinstance(reason, KilledWorker) else f"failed: {reason}"
                died(cell, " ".join(f"the workers {how}".split()))
            future.release()
            told()


def _ended(client: Any, futures: list[Any], address: str) -> Iterator[Any]:
    """The futures as they end; raises `InputError` where all workers are gone and none comes."""
    from distributed import as_completed

    ended: Any = as_completed(futures, loop=client.loop)  # type: ignore[no-untyped-call]
    seen = asked = time.monotonic()
    while not ended.is_empty():
        if ended.has_ready():
            yield from ended.next_batch(block=False)
            seen = time.monotonic()
            continue
        time.sleep(POLL_S)
        now = time.monotonic()
        if now - asked > WITHOUT_WORKERS_S / 10:
            asked = now
            if client.scheduler_info(n_workers=-1)["workers"]:
                seen = now
        if now - seen > WITHOUT_WORKERS_S:
            raise InputError(
                f"--scheduler {address}: all workers are gone; what was finished is kept, start "
                "again when there are some"
            )


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """A client of the scheduler there, silent: a connection that is lost is told once, as here."""
    try:
        from distributed import Client
    except ImportError as error:
        raise InputError('--scheduler needs Dask: pip install "costsim[cluster]"') from error
    if not _ADDRESS.fullmatch(address):
        raise InputError(f"--scheduler {address}: is no address; tcp://HOST:PORT is needed")
    logger = logging.getLogger("distributed.client")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        try:
            client: Any = Client(address, timeout=TIMEOUT, set_as_default=False)  # type: ignore[no-untyped-call]
        except (TimeoutError, OSError, ValueError, TypeError) as error:
            told_by = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"--scheduler {address}: nobody answers there: {told_by}") from error
        try:
            yield client
        except (TimeoutError, OSError) as error:
            raise InputError(
                f"--scheduler {address}: is gone ({error}); what was finished is kept"
            ) from error
        finally:
            client.close(timeout=5)
    finally:
        logger.setLevel(level)


def compute(cell: Cell, make_method: MakeMethod) -> dict[str, Any]:
    """One cell, on a worker."""
    import torch

    torch.set_num_threads(1)
    return workshop().row(cell, make_method)


def version() -> str:
    """Of costsim, on a worker."""
    return __version__


def _check_workers(client: Any, workers: Sequence[str], address: str) -> None:
    if not workers:
        raise InputError(f"--scheduler {address}: has no workers")
    try:
        found = client.run(version)
    except Exception as error:  # whatever a worker raises where costsim is not installed
        told = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"--scheduler {address}: its workers cannot run costsim: {told}"
        ) from error
    for worker, there in found.items():
        if there != __version__:
            raise InputError(
                f"--scheduler {address}: worker {worker} has costsim {there}; this is {__version__}"
            )
