"""Upper limits on a whole adaptation, from the first image to the answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from costsim.base.errors import InputError
from costsim.base.units import format_bytes, format_joules, format_macs, format_seconds
from costsim.problem.budget import at_least

ROUNDING = 1e-9
"""How far a sum over many steps may exceed its limit, relatively: its last bits are order's."""

SHOWN: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "latency_s": ("time of the task", format_seconds),
    "energy_j": ("energy of the task", format_joules),
    "macs": ("MACs of the task", format_macs),
    "storage_bytes": ("storage", format_bytes),
}
"""What a person reads for each limit, and how its amounts are written."""


@dataclass(frozen=True, slots=True)
class TaskBudget:
    """Upper limits on one adaptation; None is no limit.

    `latency_s` and `energy_j` are the believed values of all phases together, waiting and swapping
    included; `macs` counts forward and backward passes; `storage_bytes` is the most that lies in
    storage at once, beside weights.
    """

    latency_s: float | None = None
    energy_j: float | None = None
    macs: int | None = None
    storage_bytes: int | None = None

    def __post_init__(self) -> None:
        for name, value in self.to_json().items():
            if value is not None and not 0 <= value < float("inf"):
                raise InputError(f"task budget {name} is {value}; a number of at least 0 is needed")

    def __bool__(self) -> bool:
        return any(value is not None for value in self.to_json().values())

    def exceeded(self, used: Mapping[str, float | None]) -> dict[str, tuple[float, float]]:
        """Of what an adaptation uses, by name of the limit: what is over it, and the limit.

        What is not known (None: it does not fit on the device) is over any limit.
        """
        found = {}
        for name, limit in self.to_json().items():
            if limit is None:
                continue
            taken = used[name]
            if taken is None or taken > limit * (1 + ROUNDING):
                found[name] = (float("inf") if taken is None else taken, limit)
        return found

    def to_json(self) -> dict[str, Any]:
        """The `task` of a plan file's budgets."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def described(name: str, amount: float) -> str:
    """An amount of what a limit limits, for a person: `time of the task 2 min`."""
    words, show = SHOWN[name]
    return f"{words} {show(amount)}"


def enough(name: str, amount: float) -> str:
    """An amount as a person can type it back, rounded up."""
    return at_least("memory_bytes" if name == "storage_bytes" else name, amount * (1 + ROUNDING))
