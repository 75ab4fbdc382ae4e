"""What the controls of the page say, as text: each reads as the command line reads it."""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import TypeVar

import numpy as np

from costsim.base.errors import InputError, shown
from costsim.base.units import (
    format_percent,
    parse_bytes,
    parse_joules,
    parse_macs,
    parse_percent,
    parse_seconds,
)
from costsim.planning.exploration import Reach
from costsim.planning.request import PlanRequest
from costsim.pricing.cost import full_backward_macs
from costsim.problem.budget import at_least, with_unit
from costsim.problem.problem import Problem

Read = TypeVar("Read")

STOPS = 200
"""Places of a slider."""

LONGEST_TEXT = 1000
"""Letters of a value; nobody types more."""


@dataclass(frozen=True)
class Controls:
    """What is chosen and typed; a budget that is empty is the device's."""

    device: str
    accounting: str = ""
    solver: str = "exact"
    axis: str = "output"
    memory: str = ""
    macs: str = ""
    latency: str = ""
    energy: str = ""
    storage: str = ""

    @classmethod
    def from_json(cls, document: object) -> "Controls":
        """Raises `InputError` for anything but a mapping of these names to short texts."""
        if not isinstance(document, Mapping):
            raise InputError("a mapping of the page's controls to their texts is needed")
        names = [field.name for field in fields(cls)]
        for name, value in document.items():
            if name not in names:
                raise InputError(f"{shown(name)} is unknown; known are {', '.join(names)}")
            if not isinstance(value, str) or len(value) > LONGEST_TEXT:
                raise InputError(f"{name}: a text of at most {LONGEST_TEXT} letters is needed")
        if "device" not in document:
            raise InputError("device is missing")
        return cls(**document)

    @property
    def words(self) -> tuple[str, ...]:
        """As options of `costsim plan`."""
        return tuple(
            word
            for field in fields(self)
            if (text := getattr(self, field.name).strip())
            for word in (f"--{field.name}", text)
        )


def with_budgets(request: PlanRequest, controls: Controls) -> PlanRequest:
    """`request` within the budgets that `controls` say.

    Raises `InputError` that names the budget and what is allowed.
    """
    macs = share = None
    if controls.macs.strip():
        share = parse_percent(controls.macs, "--macs")
        macs = parse_macs(controls.macs, "--macs") if share is None else None
    storage = _read(controls.storage, parse_bytes, "--storage")
    return replace(
        request,
        budget=replace(
            request.budget,
            accounting=controls.accounting or None,
            macs=macs,
            macs_share=share,
            memory_bytes=_read(controls.memory, parse_bytes, "--memory"),
            latency_s=_read(controls.latency, parse_seconds, "--latency"),
            energy_j=_read(controls.energy, parse_joules, "--energy"),
        ),
        task_budget=replace(request.task_budget, storage_bytes=storage),
    )


def _read(text: str, parse: Callable[[str, str], Read], option: str) -> Read | None:
    """A value that was typed; None where nothing was."""
    return parse(text, option) if text.strip() else None


@dataclass(frozen=True)
class Slider:
    """A budget that is dragged: its stops as texts to type, and where it stands.

    `now` is what holds, for a person.
    """

    name: str
    label: str
    stops: tuple[str, ...]
    index: int
    now: str


LABELS = {
    "memory": ("memory_bytes", "Memory of a step"),
    "macs": ("macs", "Backward MACs of a step"),
    "latency": ("latency_s", "Seconds of a step"),
    "energy": ("energy_j", "Joules of a step"),
}


def sliders(problem: Problem, reach: Mapping[str, Reach], request: PlanRequest) -> list[Slider]:
    """The budgets as they stand, each from where nothing fits to where everything does."""
    found = []
    full = full_backward_macs(problem.graph, problem.step)
    for name, (limit, label) in LABELS.items():
        amount = getattr(problem.budget, limit)
        amounts = _amounts(reach[limit])
        if name == "macs":
            amounts = [full * share / STOPS for share in range(1, STOPS + 1)]
            texts = tuple(f"{100 * share / STOPS:g}%" for share in range(1, STOPS + 1))
        else:
            texts = _texts(limit, tuple(amounts))
        found.append(Slider(name, label, texts, *_standing(limit, amount, amounts, full)))
    room = request.device.storage_bytes
    if room:
        amounts = np.geomspace(2**14, room, STOPS).tolist()
        texts = _texts("memory_bytes", tuple(amounts))
        amount = request.task_budget.storage_bytes
        standing = _standing("memory_bytes", amount, amounts, full)
        label = "Storage of the whole adaptation"
        found.append(Slider("storage", label, texts, *standing))
    return found


@lru_cache
def _texts(limit: str, amounts: tuple[float, ...]) -> tuple[str, ...]:
    """As a person types them; the same for every place of the sliders, so made once."""
    return tuple(at_least(limit, one) for one in amounts)


def _amounts(reach: Reach) -> list[float]:
    """From a little below the least to a little above the most, evenly by ratio."""
    least = max(reach.least * 0.8, reach.most * 1e-6, 1e-9)
    amounts: list[float] = np.geomspace(least, max(reach.most, least) * 1.02, STOPS).tolist()
    return amounts


def _standing(
    limit: str, amount: float | None, amounts: Sequence[float], full: int
) -> tuple[int, str]:
    """The stop that is nearest to an amount, and the amount for a person."""
    if amount is None:
        return len(amounts) - 1, "no limit"
    after = min(bisect_left(amounts, amount), len(amounts) - 1)
    before = max(after - 1, 0)
    nearest = min((before, after), key=lambda index: abs(amounts[index] - amount))
    told = with_unit(limit, amount)
    if limit == "macs" and full:
        told = f"{told}, {format_percent(amount / full)} of a full backward pass"
    return nearest, told
