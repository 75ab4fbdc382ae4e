"""What a board draws, from the joules that `costsim measure` counted while steps ran."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from costsim.base.units import format_watts
from costsim.device import DeviceSpec
from costsim.hardware.results.outcome import Outcome

PARTIAL = "RAPL"
"""An instrument inside the processor: it sees less than the whole board."""
LEAST_SPREAD = 0.05
"""Relative: no meter and no board is steadier than this from one day to another."""


@dataclass(frozen=True)
class Draw:
    """Watts of one run by the instrument `source`: at work, and at rest before it where known."""

    source: str
    compute_w: float
    idle_w: float | None


def draw_of(outcome: Outcome) -> Draw | None:
    """What the most telling instrument showed: one beside the processor's own, where there is one.

    Counters of one instrument are of different parts of the machine and are added.
    """
    sources = list(dict.fromkeys(one.source for one in outcome.energy if one.seconds > 0))
    if not sources:
        return None
    source = min(sources, key=lambda name: name == PARTIAL)
    readings = [one for one in outcome.energy if one.source == source and one.seconds > 0]
    idle = [one.idle_w for one in readings if one.idle_w is not None]
    watts = sum(one.total_j / one.seconds for one in readings)
    if watts <= 0:
        return None
    return Draw(source, watts, sum(idle) if len(idle) == len(readings) else None)


def with_power(
    device: DeviceSpec, name: str, draws: Sequence[Draw], told: str
) -> tuple[DeviceSpec, str | None]:
    """`device` with the power that was measured, and a sentence on it; as it is without any.

    Draws of an instrument that sees the whole board go before those of one that does not. Power
    while swapping is scaled with that of computing, since nothing was measured of it.
    """
    whole = [draw for draw in draws if draw.source != PARTIAL]
    used = whole or list(draws)
    if not used:
        return device, None
    document = device.to_json()
    place: dict[str, Any] = document["targets"][name]["power"]
    before = device.target(name).power
    sources = ", ".join(dict.fromkeys(draw.source for draw in used))
    seen = "" if whole else ", which sees the processor and its memory alone"

    def number(values: Sequence[float], what: str) -> dict[str, Any]:
        middle = statistics.median(values)
        low, high = min(values), max(values)
        return {
            "value": middle,
            "low": min(low, middle / (1 + LEAST_SPREAD)),
            "high": max(high, middle * (1 + LEAST_SPREAD)),
            "provenance": "calibrated",
            "source": f"{what} by {sources}{seen}; {told}",
        }

    computing = number([draw.compute_w for draw in used], "measured while steps ran")
    place["compute"] = computing
    idle = [draw.idle_w for draw in used if draw.idle_w]
    if idle:
        place["idle"] = number(idle, "measured at rest")
    factor = computing["value"] / before.compute.value
    place["memory"] = {
        "value": before.memory.value * factor,
        "low": before.memory.interval.low * factor,
        "high": before.memory.interval.high * factor,
        "provenance": "estimate",
        "source": f"{before.memory.source}; scaled with what was measured of computing",
    }
    sentence = f"The board draws {format_watts(computing['value'])} at work ({sources}{seen})."
    return DeviceSpec.from_json(document, "the refined device"), sentence
