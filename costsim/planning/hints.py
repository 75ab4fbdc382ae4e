"""What a person can do where no plan is within the budgets: which limit, and what to type."""

from costsim.base.units import format_bytes
from costsim.device import DeviceSpec
from costsim.problem.budget import at_least, describe, with_unit
from costsim.problem.problem import Problem
from costsim.solving.solve import joint_relaxation, relaxations

OPTIONS = {
    "memory_bytes": "--memory",
    "macs": "--macs",
    "latency_s": "--latency",
    "energy_j": "--energy",
}
"""Limits and where a person sets them; `working_bytes` is the device's own room."""

LESS = "smaller images (--resolution), fewer layers (--inspect) or fewer --bits take less"


def hint(problem: Problem, device: DeviceSpec, typed: frozenset[str]) -> str:
    """What would let a channel fit, as options to type; `typed` are the limits a person set.

    Says too where a limit is the device's recommendation and not all that it has. Empty where a
    channel fits, so that something else is in the way.
    """
    limits = dict(problem.limits())
    alone = {name: value for name, value in relaxations(problem).items() if value is not None}
    if any(value <= limits[name] for name, value in alone.items()):
        return ""
    wanted = alone or joint_relaxation(problem)
    room = device.largest_block_bytes
    names = " and ".join(_name(limit) for limit in wanted if limit in OPTIONS) or "the board itself"
    several = " and " in names or names.endswith("MACs")
    blamed = f"{names} {'are' if several else 'is'} to blame"
    needed = max((wanted[name] for name in _BYTES if name in wanted), default=0.0)
    if needed > room:
        return (
            f"{blamed}: {with_unit('memory_bytes', needed)} are needed, and {device.name} has "
            f"{format_bytes(room)} in one piece; {LESS}"
        )
    typing = [f"{OPTIONS[n]} {at_least(n, v)}" for n, v in wanted.items() if n in OPTIONS]
    told = f"{blamed}; {(' or ' if alone else ' with ').join(typing)} would do"
    recommended = [name for name in wanted if name in OPTIONS and name not in typed]
    if not recommended:
        return told
    limits_told = " and ".join(with_unit(name, limits[name]) for name in recommended)
    more = f", which has {format_bytes(room)} in one piece" if "memory_bytes" in recommended else ""
    are = "is" if len(recommended) == 1 else "are"
    task = f"what is recommended for a personal task on {device.name}{more}"
    return f"{told}: {limits_told} {are} {task}"


_BYTES = ("memory_bytes", "working_bytes")


def _name(limit: str) -> str:
    """What a limit limits, without an amount."""
    return describe(limit, 1.0).removesuffix(with_unit(limit, 1.0)).strip()
