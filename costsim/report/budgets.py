"""What a plan uses of each budget."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from costsim.base.units import format_bytes, format_joules, format_macs, format_seconds
from costsim.device import DeviceSpec
from costsim.problem.budget import Budget
from costsim.problem.task_budget import SHOWN, TaskBudget
from costsim.solving.planfile import DeviceRecord, Prediction

BUDGETS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "memory_bytes": ("memory", format_bytes),
    "working_bytes": ("room on the device (peak)", format_bytes),
    "macs": ("backward MACs", format_macs),
    "latency_s": ("latency", format_seconds),
    "energy_j": ("energy", format_joules),
}
"""What a person reads for each limit of a budget, and how its amounts are written."""

WITH_SWAP = "room with swap (peak)"


@dataclass(frozen=True, slots=True)
class BudgetUse:
    """One budget: its name for a person, what is used of it and what is allowed, with units.

    `used` and `share` are None where there is no plan.
    """

    name: str
    used: str | None
    allowed: str
    share: float | None


def budget_uses(
    budget: Budget, predicted: Prediction | None, device: DeviceRecord | None = None
) -> tuple[BudgetUse, ...]:
    """The limits that are set, with what a plan uses of them; `predicted` is None without one.

    The room is that of `device`, or more than it where a step may swap.
    """
    rows = []
    for key, (name, show) in BUDGETS.items():
        limit = getattr(budget, key)
        if limit is None:
            continue
        label = f"{name} ({budget.accounting})" if key == "memory_bytes" else name
        if key == "working_bytes" and device is not None and limit > device.room_bytes:
            label = WITH_SWAP
        used = None if predicted is None else _used(predicted, key)
        rows.append(
            BudgetUse(
                label,
                None if used is None else show(used),
                show(limit),
                None if used is None else _share(used, limit),
            )
        )
    return tuple(rows)


def flash_use(predicted: Prediction | None, device: DeviceSpec | None) -> tuple[BudgetUse, ...]:
    """The flash of a microcontroller, in which all weights lie: the updated ones as they start.

    What is allowed is what the device file leaves beside code and tables.
    """
    if device is None or not device.is_microcontroller or not device.flash_bytes:
        return ()
    if device.placement.frozen_weights != "flash":
        return ()
    used = None
    if predicted is not None:
        used = predicted.memory.frozen_weight_bytes + predicted.memory.updated_weight_bytes
    return (
        BudgetUse(
            "flash (weights)",
            None if used is None else format_bytes(used),
            format_bytes(device.flash_bytes),
            None if used is None else _share(used, device.flash_bytes),
        ),
    )


def task_budget_uses(budget: TaskBudget, predicted: Prediction | None) -> tuple[BudgetUse, ...]:
    """Likewise of the whole adaptation."""
    rows = []
    used = {} if predicted is None or predicted.adaptation is None else predicted.adaptation.usage
    for key, limit in budget.to_json().items():
        if limit is None:
            continue
        words, show = SHOWN[key]
        taken = used.get(key)
        rows.append(
            BudgetUse(
                words.removesuffix(" of the task"),
                None if taken is None else show(taken),
                show(limit),
                None if taken is None else _share(taken, limit),
            )
        )
    return tuple(rows)


def _share(used: float, limit: float) -> float:
    """`used` over `limit`; nothing used of nothing allowed is all of it."""
    return used / limit if limit else 1.0


def _used(predicted: Prediction, key: str) -> float | None:
    memory = predicted.memory
    match key:
        case "memory_bytes":
            return {
                "peak": memory.peak_bytes,
                "arena": memory.arena_bytes,
                "paper": memory.paper_bytes,
                "tiny-training": memory.tiny_training_bytes,
            }[memory.accounting]
        case "working_bytes":
            return memory.peak_bytes
        case "macs":
            return predicted.macs.backward
        case "latency_s":
            return None if predicted.latency_s is None else predicted.latency_s.step
        case _:
            return predicted.energy_j
