"""One fault at one place: how often it was tried, and what held."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from campaign.stage import Stage

Trial: TypeAlias = Callable[["Stage", int, random.Random], tuple[int, str]]
"""(where, how often to try, chance) to how often it was tried, and what held.

Raises `AssertionError` where something did not hold, and `Unavailable`.
"""


class Unavailable(Exception):
    """This machine lacks what the fault needs."""


@dataclass(frozen=True)
class Experiment:
    """A row of the table.

    `times`: how often the whole campaign tries it, 0: at every place there is; `quick`: how often
    the slow suite does, 0: not at all.
    """

    fault: str
    where: str
    trial: Trial
    times: int
    quick: int

    @property
    def name(self) -> str:
        """What it is called by on the command line."""
        return f"{self.fault}: {self.where}"
