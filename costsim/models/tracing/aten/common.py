"""What handlers share."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from costsim.models.tracing.builder import Handle

Result: TypeAlias = Handle | list[Handle | None]

Handler: TypeAlias = Callable[..., Result]
"""Takes the builder and the operator's arguments in the order of its schema, defaults filled in."""


def as_tuple(value: Sequence[int] | int, length: int) -> tuple[int, ...]:
    """`value` for each of `length` dimensions."""
    values = [value] if isinstance(value, int) else list(value)
    return tuple(values * length if len(values) == 1 else values)


def dimension_of(dimension: int, rank: int) -> int:
    """`dimension` counted from the front."""
    return dimension + rank if dimension < 0 else dimension
