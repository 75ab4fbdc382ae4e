"""What the seconds of a step consist of on a device, part by part, and a spec with parts rescaled.

A part is what has a rate of its own: a kind of operation in one direction (`depthwise_convolution
forward`), the `overhead` of every operation, the `bandwidth` that work short of arithmetic waits
for. On a calibrated target the families of its laws (`relu forward`, `update`) are parts too. The
predicted step is the sum of its parts, and making a part's rate k times slower makes it k times
longer, so that what was measured is linear in the factors of parts.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from costsim.device import ELEMENTWISE_RATE, ComputeTarget, DeviceSpec
from costsim.device.calibration import QUANTILE
from costsim.device.quantity import Quantity
from costsim.device.target import MacRates
from costsim.hardware.calibration.fit import family

Work: TypeAlias = tuple[str, str, float, float, str]
"""Kind, direction, MACs, bytes and kernel of an operation (`pricing.cost.operation_work`)."""

OVERHEAD, BANDWIDTH = "overhead", "bandwidth"


def step_parts(work: Iterable[Work], target: ComputeTarget) -> dict[str, float]:
    """Seconds by part; their sum is the believed value of `target.total_seconds(work)`."""
    found: dict[str, float] = {}

    def add(part: str, seconds: float) -> None:
        found[part] = found.get(part, 0.0) + seconds

    for kind, direction, macs, moved, kernel in work:
        law = (
            None if target.calibration is None else target.calibration.seconds(kernel, macs, moved)
        )
        if law is not None:
            add(family(kernel), float(law))
            continue
        whole = target.operation_seconds(kind, direction, macs, moved)
        overhead = target.overhead.value
        add(OVERHEAD, overhead)
        add(_limit(target, kind, direction, macs, moved), whole - overhead)
    return {part: seconds for part, seconds in found.items() if seconds > 0}


def _limit(target: ComputeTarget, kind: str, direction: str, macs: float, moved: float) -> str:
    """The part that an operation's own time belongs to."""
    direction = "forward" if direction == "recompute" else direction
    rates = getattr(target.throughput, kind)
    if isinstance(rates, MacRates) and direction in MacRates.model_fields:
        computing = macs / getattr(rates, direction).value
        return f"{kind} {direction}" if computing > moved / target.bandwidth.value else BANDWIDTH
    return f"elementwise {ELEMENTWISE_RATE[direction]}"


def rescaled(
    device: DeviceSpec,
    name: str,
    *,
    whole: float,
    apart: Mapping[str, float],
    deviation: Callable[[str, float], float],
    common: float,
    told: str,
) -> DeviceSpec:
    """`device` with all durations of its target `name` times `whole`, and parts times `apart` more.

    `deviation(part, before)` is the relative standard deviation that a part's rate has from now
    on, `before` what it had; `common` is that of the whole step of a calibrated target. `told`
    says in the sources what was done.
    """
    target = device.target(name)
    document = device.to_json()
    place: dict[str, Any] = document["targets"][name]

    def number(part: str, quantity: Quantity, *, rate: bool) -> dict[str, Any]:
        factor = whole * apart.get(part, 1.0)
        value = quantity.value / factor if rate else quantity.value * factor
        before = math.log(quantity.interval.high / quantity.interval.low) / (2 * QUANTILE)
        width = math.exp(QUANTILE * deviation(part, before))
        source = quantity.source.partition("; refined ")[0]
        return {
            "value": value,
            "low": value / width,
            "high": value * width,
            "provenance": "calibrated",
            "source": f"{source}; refined {told}",
        }

    place["overhead"] = number(OVERHEAD, target.overhead, rate=False)
    place["bandwidth"] = number(BANDWIDTH, target.bandwidth, rate=True)
    for table in ("throughput", "throughput_int8"):
        rates = getattr(target, table)
        if rates is None:
            continue
        for kind in type(rates).model_fields:
            for direction, quantity in getattr(rates, kind):
                # What ran had 32 bits: 8-bit rates go with the whole, and are known as before.
                part = f"{kind} {direction}" if table == "throughput" else f"8-bit {kind}"
                place[table][kind][direction] = number(part, quantity, rate=True)
    _raise_limits(place)
    if target.calibration is not None:
        laws = place["calibration"]
        laws["step_factor"] *= whole
        laws["common"] = common
        laws["refined"] = told
        for kernel, law in laws["kernels"].items():
            for term in ("overhead_s", "s_per_mac", "s_per_byte"):
                law[term] *= apart.get(family(kernel), 1.0)
    return DeviceSpec.from_json(document, "the refined device")


def _raise_limits(place: dict[str, Any]) -> None:
    """Peaks and bandwidth are limits: they give way where rates are beyond them now."""
    for table, width in (("throughput", "fp32"), ("throughput_int8", "int8")):
        fastest = [
            rate
            for kind, rates in place.get(table, {}).items()
            for rate in rates.values()
            if kind != "elementwise"
        ]
        if fastest:
            place["peak"][width] = _at_least(place["peak"][width], fastest)
        moved = list(place.get(table, {}).get("elementwise", {}).values())
        place["bandwidth"] = _at_least(place["bandwidth"], moved)


def _at_least(limit: dict[str, Any], rates: list[dict[str, Any]]) -> dict[str, Any]:
    fastest = max(rates, key=lambda rate: float(rate["value"]), default=limit)
    return limit if fastest["value"] <= limit["value"] else dict(fastest)
