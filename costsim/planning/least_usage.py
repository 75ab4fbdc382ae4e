"""What an adaptation without updates takes at least, by the cut behind which it trains.

Compiling the two programs of a cut takes milliseconds, and a network has tens of cuts. The forward
pass of the whole network tells what they take (`forward_parts`), but for room and swapping: where
there is room that is the price, but for rounding, and a bound anywhere.
"""

from collections.abc import Mapping

from costsim.device import Interval
from costsim.ir.program.adaptation import (
    Phase,
    Place,
    image_bytes,
    step_of,
    value_bytes,
    values_kept,
)
from costsim.ir.recipe import Recipe
from costsim.planning.recipes import Asked
from costsim.pricing.adaptation import AdaptationCost, transfer_seconds

ROUNDED = 1 - 1e-12
"""What is surely reached of a sum whose last digits are those of its order."""

_ITERATED = frozenset({Phase.MEANS, Phase.TRAINING})


class LeastUsage:
    """Of one recipe that keeps values in storage. `plain`: its price without a cut and updates."""

    def __init__(self, asked: Asked, recipe: Recipe, plain: AdaptationCost) -> None:
        self.asked, self.task, self.graph, self.plain = asked, asked.task, asked.graph, plain
        self.target = asked.device.target(asked.target)
        self.parts = asked.forward_parts(recipe)
        step = asked.step or step_of(asked.graph, recipe, asked.task)
        self.bits = step.bits
        # Whatever the cut, what comes before and after all iterations is the same.
        others = [phase for phase in plain.phases if phase.phase not in _ITERATED]
        self.others_s = sum(phase.compute_s.value for phase in others)
        self.others_macs = sum(phase.macs.total for phase in others)
        self.others_wait_s = sum(phase.storage_s.value for phase in others)
        self.passes = sum(phase.times for phase in plain.phases if phase.phase in _ITERATED)
        self.values = values_kept(recipe, self.task)
        self.caching = -(-self.values // self.graph.batch)
        shown = recipe.steps(self.task.samples, step.batch) * step.batch
        means = recipe.means_taken() + 1 if recipe.loss == "prototype" else 0
        self.fetched = shown + means * self.task.samples

    def computing_s(self, cut: str) -> float:
        """Seconds of computing alone, wherever the values at `cut` are kept."""
        before, behind = self.parts[cut]
        return self.others_s + self.caching * before.seconds + self.passes * behind.seconds

    def at(self, cut: str) -> Mapping[str, float | None]:
        """At least what is taken of each limit of the whole where the values at `cut` are kept."""
        before, behind = self.parts[cut]
        value = value_bytes(self.graph, cut, self.bits)
        compute_s = self.computing_s(cut)
        wait_s = (
            self.others_wait_s
            + self._moved_s(
                self.asked.device.placement.support_images,
                self.values * image_bytes(self.graph),
                "read",
            )
            + self._moved_s("storage", self.values * value, "write")
            + self._moved_s("storage", self.fetched * value, "read")
        )
        joules = self.target.joules(Interval.exactly(compute_s), Interval.exactly(wait_s))
        return {
            "latency_s": (compute_s + wait_s) * ROUNDED,
            "energy_j": joules.value * ROUNDED,
            "macs": self.others_macs + self.caching * before.macs + self.passes * behind.macs,
            "storage_bytes": self.values * value,
        }

    def _moved_s(self, place: Place, size_bytes: int, direction: str) -> float:
        """Seconds of waiting for what is moved; none for what is in RAM."""
        if place == "ram" or not size_bytes:
            return 0.0
        return transfer_seconds(self.asked.device, place, size_bytes, direction).value
