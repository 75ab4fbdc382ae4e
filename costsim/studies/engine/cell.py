"""A cell, and a study as the product of lists that cells are made of."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A model as `--model` names it, with its weights.

    `weights` None are its default ones, `random` those of the seed; without a `name` a table calls
    it as it was asked for.
    """

    model: str
    weights: Path | None = None
    resolution: int | None = None
    name: str | None = None

    @property
    def label(self) -> str:
        """What a table calls it."""
        return self.model if self.name is None else self.name


class Cell(ABC):
    """What is computed once, as one row; a subclass is a frozen dataclass.

    Digests are of everything that something depends on: the content of files, not their names.
    """

    @property
    @abstractmethod
    def key(self) -> str:
        """Digest of what the answer depends on: the key of the row."""

    @property
    @abstractmethod
    def group(self) -> Hashable:
        """What cells have in common that one process computes faster than two."""

    @property
    def shared_key(self) -> str | None:
        """Digest of what the document depends on that cells share; None where they share none."""
        return None

    @property
    @abstractmethod
    def head(self) -> Mapping[str, Any]:
        """What the row says of the cell, `key` included."""


C = TypeVar("C", bound=Cell)
C_co = TypeVar("C_co", bound=Cell, covariant=True)


class Study(ABC, Generic[C_co]):
    """Everything to be computed; a subclass is a frozen dataclass of lists."""

    @abstractmethod
    def cells(self) -> tuple[C_co, ...]:
        """The product of all lists, each cell once, in the order in which they are shown.

        Raises `InputError` for a device or a file that cannot be read.
        """
