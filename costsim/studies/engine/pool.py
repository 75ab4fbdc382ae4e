"""Workers as a run sees them: so many seats, each of which computes one cell at a time."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Seat(ABC):
    """One worker process, or one of its threads. `group` is that of the cell it had last."""

    group: Hashable = None

    @abstractmethod
    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Have a call computed there."""

    @abstractmethod
    def death(self, error: BaseException, deaths: int) -> str | None:
        """How the worker died, if `error` of a call says that it did; None for other errors.

        `deaths` counts those at the same cell. Raises `InputError` where nothing can be computed
        any longer.
        """


class Pool(ABC):
    """Seats of one run; a context manager that lets go of all of them.

    `tries` is how often a cell is begun at which workers die. `alone` says that nothing happens but
    what the seats do, so that a run may wait for them and look at nothing else.
    """

    tries: int
    alone: bool

    @abstractmethod
    def seats(self) -> Sequence[Seat]:
        """Those that are there now, the best to be given a cell first.

        Raises `InputError` where none are left and none come.
        """
