"""How far something is that takes long, told to whoever watches."""

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with what is being done, how much is done and how much there is (0: not known)."""


def silent(what: str, done: int, total: int) -> None:
    """Progress that nobody watches."""
