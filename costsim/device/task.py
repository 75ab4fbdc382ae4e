"""What a user waits for: choosing what to update, then the whole adaptation."""

import math
from dataclasses import dataclass
from typing import Any

from costsim.base.errors import InputError
from costsim.device.interval import Interval
from costsim.device.target import ComputeTarget


@dataclass(frozen=True, slots=True)
class TaskEstimate:
    """Seconds and joules of a whole personal task on one compute target.

    `steps` optimizer steps; `selection_s` once before them; `training_s` all steps with their
    swapping. `selection_peak_bytes` are the most bytes live at once in the selection, frozen
    weights apart.
    """

    steps: int
    selection_s: Interval
    training_s: Interval
    energy_j: Interval
    selection_peak_bytes: int = 0

    @property
    def latency_s(self) -> Interval:
        """The whole task."""
        return self.selection_s + self.training_s

    def to_json(self) -> dict[str, Any]:
        """The `task` of a plan's predicted costs."""
        return {
            "steps": self.steps,
            "selection_s": self.selection_s.to_json(),
            "training_s": self.training_s.to_json(),
            "latency_s": self.latency_s.to_json(),
            "energy_j": self.energy_j.to_json(),
            "selection_peak_bytes": self.selection_peak_bytes,
        }


def estimate_task(
    target: ComputeTarget,
    *,
    step_s: Interval,
    iterations: int,
    samples: int,
    batch: int = 1,
    selection_s: Interval | None = None,
    selection_peak_bytes: int = 0,
    swap_s: Interval | None = None,
) -> TaskEstimate:
    """Price `iterations` over `samples`, `batch` of them a step, after the selection.

    `step_s` and `swap_s` are one step's computing and swapping, `selection_s` the computing of
    the whole selection pass. A last step with fewer samples is priced as a full one. Raises
    `InputError` for a count below 1.
    """
    for name, count in (("iterations", iterations), ("samples", samples), ("batch", batch)):
        if count < 1:
            raise InputError(f"{name} is {count}; at least 1 is needed")
    steps = iterations * math.ceil(samples / batch)
    selection = selection_s or Interval.exactly(0.0)
    computing = step_s * steps
    swapping = (swap_s or Interval.exactly(0.0)) * steps
    return TaskEstimate(
        steps=steps,
        selection_s=selection,
        training_s=computing + swapping,
        energy_j=target.joules(selection + computing, swapping),
        selection_peak_bytes=selection_peak_bytes,
    )
