"""Upper limits on a training step, and how an amount of what they limit is told."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from decimal import ROUND_CEILING, Context, Decimal
from typing import Any

from costsim.base.errors import InputError
from costsim.base.units import format_bytes, format_joules, format_macs, format_seconds
from costsim.pricing.accounting import ACCOUNTINGS

BUDGETS: Mapping[str, str] = {"memory": "memory_bytes", "macs": "macs", "latency": "latency_s"}
"""Budgets that gain is drawn against and whose least is sought, and the limits that they are."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Upper limits on one training step; None is no limit.

    `memory_bytes` is in `accounting`, `macs` counts the backward pass. `working_bytes` is the room
    a device has for the step's buffers: a limit on the `peak`, whatever the accounting of the
    memory budget. In `arena` a solver is asked for the peak, which is never more, and `solve` sees
    to the rest.
    """

    memory_bytes: int | None = None
    accounting: str = "peak"
    macs: int | None = None
    latency_s: float | None = None
    energy_j: float | None = None
    working_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.accounting not in ACCOUNTINGS:
            raise InputError(
                f"accounting {self.accounting!r}; allowed are {', '.join(ACCOUNTINGS)}"
            )
        for name in ("memory_bytes", "macs", "latency_s", "energy_j", "working_bytes"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise InputError(f"budget {name} is {value}; a number of at least 0 is needed")

    def to_json(self) -> dict[str, Any]:
        """The `budgets` of a plan file."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


_SHOWN: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "memory_bytes": ("memory", format_bytes),
    "working_bytes": ("memory of the device", format_bytes),
    "macs": ("backward MACs", format_macs),
    "latency_s": ("latency of a step", format_seconds),
    "energy_j": ("energy of a step", format_joules),
}
_TYPED: Mapping[str, Mapping[str, float]] = {
    "memory_bytes": {"GiB": 2.0**30, "MiB": 2.0**20, "KiB": 2.0**10, "B": 1.0},
    "working_bytes": {"GiB": 2.0**30, "MiB": 2.0**20, "KiB": 2.0**10, "B": 1.0},
    "macs": {"GMAC": 1e9, "MMAC": 1e6, "kMAC": 1e3, "MAC": 1.0},
    "latency_s": {"s": 1.0, "ms": 1e-3, "us": 1e-6},
    "energy_j": {"kJ": 1e3, "J": 1.0, "mJ": 1e-3, "uJ": 1e-6},
}
_UPWARDS = Context(prec=4, rounding=ROUND_CEILING)


def at_least(limit: str, amount: float) -> str:
    """An amount of what a limit limits as a person can type it back: `1.001MiB`, rounded up.

    To four digits, so that it is enough by less than 0.1 % of itself.
    """
    units = _TYPED[limit]
    unit = next((name for name, scale in units.items() if amount >= scale), list(units)[-1])
    number = Decimal(amount) / Decimal(units[unit])
    if limit in ("latency_s", "energy_j"):  # sums of floats, in whatever order
        number *= Decimal("1.000001")
    return f"{_UPWARDS.create_decimal(number).normalize():f}{unit}"


def describe(limit: str, amount: float) -> str:
    """An amount of what a limit limits, for a person: `memory 1.2 MiB`."""
    return f"{_SHOWN[limit][0]} {with_unit(limit, amount)}"


def with_unit(limit: str, amount: float) -> str:
    """An amount of what a limit limits, alone: `1.2 MiB`."""
    return _SHOWN[limit][1](amount)
