"""Workers of a Dask cluster that is there already: one seat for each of their threads.

A seat is given one cell at a time, so that a worker that dies costs no more than the cell it was
at; Dask has another one try it. Files of data and weights must be at the same place on all workers.
"""

import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from typing import Any

from costsim import __version__
from costsim.base.errors import InputError
from costsim.studies.engine.pool import P, Pool, Seat, T

TIMEOUT = "10s"
"""For the scheduler to answer."""

WITHOUT_WORKERS_S = 60.0
"""A cluster may be without workers for so long; others may come."""

ANSWER_S = 60.0
"""A scheduler that is busy answers late; one that is gone never."""

_ADDRESS = re.compile(r"(\w+://)?(\[[^\]]+\]|[^\[\]/:\s]+):\d{1,5}")


@contextmanager
def connected(address: str) -> Iterator[Pool]:
    """The workers of the scheduler at `address`; those that come later are used too.

    Silent: a connection that is lost is told once, as here. Raises `InputError` where the package
    is missing, `address` is none, nobody answers, there are no workers or no longer any, or they
    have another version of costsim.
    """
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
            yield ClusterPool(client, address)
        except (TimeoutError, OSError) as error:
            raise InputError(_gone(address)) from error
        finally:
            client.close(timeout=5)
    finally:
        logger.setLevel(level)


def _gone(address: str) -> str:
    return f"--scheduler {address}: is gone; what was finished is kept, start again"


class ClusterPool(Pool):
    """The threads of all workers."""

    tries = 1  # the scheduler tries again itself, as often as it is set to
    alone = False

    def __init__(self, client: Any, address: str) -> None:
        self._client, self._address = client, address
        self._seats: dict[str, list[ClusterSeat]] = {}
        self._look()
        if not self._seats:
            raise InputError(f"--scheduler {address}: has no workers")

    def seats(self) -> Sequence["ClusterSeat"]:
        """Those of the workers that are there now."""
        if self._client.status != "running":
            raise InputError(_gone(self._address))
        if time.monotonic() - self._looked > WITHOUT_WORKERS_S / 10:
            self._look()
        if not self._seats and time.monotonic() - self._seen > WITHOUT_WORKERS_S:
            raise InputError(
                f"--scheduler {self._address}: all workers are gone; what was finished is kept, "
                "start again when there are some"
            )
        return [seat for seats in self._seats.values() for seat in seats]

    def _look(self) -> None:
        """Ask who is there."""
        workers = _workers(self._client)
        self._looked = time.monotonic()
        if workers:
            self._seen = self._looked
        _check_version(
            self._client, [one for one in workers if one not in self._seats], self._address
        )
        self._seats = {
            worker: self._seats.get(worker)
            or [ClusterSeat(self._client, self._address, worker) for _ in range(told["nthreads"])]
            for worker, told in sorted(workers.items())
        }


class ClusterSeat(Seat):
    """One thread of a worker; if that is gone, another one computes what it was given."""

    def __init__(self, client: Any, address: str, worker: str) -> None:
        self._address = address
        self._executor = client.get_executor(workers=[worker], allow_other_workers=True, pure=False)

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Have a call computed by the worker."""
        future: Future[T] = self._executor.submit(function, *args, **kwargs)
        return future

    def death(self, error: BaseException, deaths: int) -> str | None:
        """Whether the workers died at it."""
        from distributed.scheduler import KilledWorker

        if isinstance(error, CancelledError | OSError | TimeoutError):
            raise InputError(_gone(self._address)) from error
        return "the workers died at it" if isinstance(error, KilledWorker) else None


def _workers(client: Any) -> dict[str, Any]:
    """Who is there; raises `OSError` or `TimeoutError` where the scheduler does not say.

    It is asked with a limit, as `scheduler_info` is not: one that stands still (a machine that is
    suspended) keeps its connections open.
    """
    if client.scheduler is None:
        raise OSError("the connection was lost")
    found = client.sync(client.scheduler.identity, callback_timeout=ANSWER_S)
    workers: dict[str, Any] = found["workers"]
    return workers


def version() -> str:
    """Of costsim, on a worker."""
    return __version__


def _check_version(client: Any, workers: Sequence[str], address: str) -> None:
    if not workers:
        return
    try:
        found = client.run(version, workers=workers)
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
