"""The device of a plan, and the device file of that name now."""

from collections.abc import Iterator, Mapping
from typing import Any

from costsim.base.errors import shown
from costsim.base.units import counted
from costsim.device import load_device, shipped_devices
from costsim.solving.planfile.document import PlanFile


def changed_device(plan: PlanFile) -> str | None:
    """Where the shipped device file of the name of a plan's device differs from the plan's; None
    where it does not, and where none of that name is shipped.
    """
    spec = plan.device_spec
    if spec is None or spec.name not in shipped_devices():
        return None
    then, now = (dict(leaves("", one.to_json())) for one in (spec, load_device(spec.name)))
    keys = [key for key in {**then, **now} if then.get(key) != now.get(key)]
    if not keys:
        return None
    first = keys[0]
    more = f" and {counted(len(keys) - 1, 'key')} more" if len(keys) > 1 else ""
    return (
        f"the device file of {spec.name} has changed since the plan, whose device is used: "
        f"{first} is {shown(now.get(first))}, was {shown(then.get(first))}{more}"
    )


def leaves(key: str, value: object) -> Iterator[tuple[str, Any]]:
    """The values inside a document, each with its dotted key."""
    if isinstance(value, Mapping):
        for name, inside in value.items():
            yield from leaves(f"{key}.{name}" if key else str(name), inside)
    else:
        yield key, value
