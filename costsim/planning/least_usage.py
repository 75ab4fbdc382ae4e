"""What an adaptation without updates takes at least, by the cut behind which it trains.

Compiling the two programs of a cut takes milliseconds, and a network has tens of cuts. The forward
pass of the whole network tells what they take (`forward_parts`), but for room and swapping: where
there is room that is the price, but for rounding, and a bound anywhere.
"""

from collections.abc import Mapping
from functools import cached_property

from costsim.device import Interval
from costsim.ir.program.adaptation import (
    Phase,
    Place,
    image_bytes,
    step_of,
    value_bytes,
    values_kept,
)
from costsim.ir.recipe import CacheIn, Recipe
from costsim.planning.task_on_device import Asked
from costsim.pricing.adaptation import AdaptationCost, Parts, transfer_seconds

ROUNDED = 1 - 1e-12
"""What is surely reached of a sum whose last digits are those of its order."""

_ITERATED = frozenset({Phase.MEANS, Phase.TRAINING})


class LeastUsage:
    """Of one recipe that keeps values in storage. `plain`: its price without a cut and updates."""

    def __init__(self, asked: Asked, recipe: Recipe, plain: AdaptationCost) -> None:
        self.asked, self.recipe, self.plain = asked, recipe, plain
        self.graph, task = asked.graph, asked.task
        self.target = asked.device.target(asked.target)
        step = asked.step or step_of(asked.graph, recipe, asked.task)
        self.bits = step.bits
        # Whatever the cut, what comes before and after all iterations is the same.
        others = [phase for phase in plain.phases if phase.phase not in _ITERATED]
        self.others_s = sum(phase.compute_s.value for phase in others)
        self.others_macs = sum(phase.macs.total for phase in others)
        self.others_wait_s = sum(phase.storage_s.value for phase in others)
        self.passes = sum(phase.times for phase in plain.phases if phase.phase in _ITERATED)
        self.values = values_kept(recipe, task)
        self.caching = -(-self.values // self.graph.batch)
        shown = recipe.steps(task.samples, step.batch) * step.batch
        means = recipe.means_taken() + 1 if recipe.loss == "prototype" else 0
        self.fetched = shown + means * task.samples

    @cached_property
    def parts(self) -> Parts:
        """At least what a forward pass takes before and behind each cut."""
        return self.asked.forward_parts(self.recipe)

    def computing_s(self, cut: str) -> float:
        """Seconds of computing alone, wherever the values at `cut` are kept."""
        before, behind = self.parts[cut]
        return self.others_s + self.caching * before.seconds + self.passes * behind.seconds

    def seconds(self, cut: str, cache_in: CacheIn) -> float:
        """At least what all of it takes where the values at `cut` are kept in RAM or in storage."""
        waiting_s = self._moving_s(cut) if cache_in == "storage" else 0.0
        return (self.computing_s(cut) + self.others_wait_s + waiting_s) * ROUNDED

    def in_storage(self, cut: str) -> Mapping[str, float | None]:
        """At least what is taken of each limit of the whole where the values at `cut` are there."""
        before, behind = self.parts[cut]
        joules = self.target.joules(
            Interval.exactly(self.computing_s(cut)),
            Interval.exactly(self.others_wait_s + self._moving_s(cut)),
        )
        return {
            "latency_s": self.seconds(cut, "storage"),
            "energy_j": joules.value * ROUNDED,
            "macs": self.others_macs + self.caching * before.macs + self.passes * behind.macs,
            "storage_bytes": self.values * value_bytes(self.graph, cut, self.bits),
        }

    def may_have_room(self, cut: str, cache_in: CacheIn) -> bool:
        """False where the values at `cut` are more than their place holds.

        In RAM beside what computing them holds.
        """
        held = self.values * value_bytes(self.graph, cut, self.bits)
        if cache_in == "ram":
            return held + self.parts[cut][0].peak_bytes <= self.asked.room_bytes
        return held <= self.asked.device.storage_bytes

    def _moving_s(self, cut: str) -> float:
        """Seconds of waiting for images and for the values at `cut`, in storage."""
        value = value_bytes(self.graph, cut, self.bits)
        images_in = self.asked.device.placement.support_images
        moved: list[tuple[Place, int, str]] = [
            (images_in, self.values * image_bytes(self.graph), "read"),
            ("storage", self.values * value, "write"),
            ("storage", self.fetched * value, "read"),
        ]
        return sum(
            transfer_seconds(self.asked.device, place, size_bytes, direction).value
            for place, size_bytes, direction in moved
            if place != "ram"
        )
