"""What a job has read so far, written down as it goes, so that it is not lost with the device.

Beside the job, `BEGUN` is the outcome as it stands before the first timed step, and `STEPS` gets a
line for every step: its seconds and a semicolon, without which a line is not whole.
"""

import json
import math
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from costsim.base.errors import CostsimError
from costsim.hardware.results.outcome import Outcome
from costsim.hardware.results.record import Measurement, spread_warnings
from costsim.hardware.targets.base import Target, TargetError
from costsim.hardware.targets.job import Job

BEGUN, STEPS = "begun.json", "steps"


class Recorder:
    """Writes them, where the job runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begun(self, outcome: Outcome) -> None:
        """All but the seconds of the steps."""
        half = self.folder / f"{BEGUN}.half"
        half.write_text(json.dumps(outcome.to_json()))
        half.replace(self.folder / BEGUN)

    def stepped(self, seconds: float) -> None:
        """One step more."""
        with (self.folder / STEPS).open("a") as file:
            file.write(f"{seconds!r};\n")


@dataclass
class Readings:
    """What is known of them on the side that waits for the job."""

    begun: str = ""
    step_s: list[float] = field(default_factory=list)

    def add(self, lines: str) -> None:
        """Steps, as `STEPS` has them; what is not whole or no time is left out."""
        for word in lines.split():
            with suppress(ValueError):
                if word.endswith(";") and 0 <= (seconds := float(word[:-1])) < math.inf:
                    self.step_s.append(seconds)

    def load(self, folder: Path) -> None:
        """Read all that is in `folder`; what was known stays where it is gone."""
        with suppress(OSError):
            found = Readings((folder / BEGUN).read_text())
            found.add((folder / STEPS).read_text())
            self.begun, self.step_s = found.begun, found.step_s

    def cut_short(self, target: Target, job: Job, error: TargetError) -> Outcome | None:
        """What there is of the outcome that `error` ended; None without a single step."""
        try:
            outcome = Outcome.from_json(json.loads(self.begun), target.name)
        except (ValueError, RecursionError, CostsimError):  # none yet, or not worth believing
            return None
        if outcome.measurement is None:
            return None
        return partial_outcome(
            outcome.model_copy(update={"target": target.name, "how": target.how}),
            outcome.measurement,
            tuple(self.step_s),
            job.options.steps,
            error,
        )


def partial_outcome(
    outcome: Outcome,
    measurement: Measurement,
    step_s: tuple[float, ...],
    asked: int,
    error: TargetError,
) -> Outcome | None:
    """`outcome` with those seconds of the `asked` steps, marked as what `error` left of it."""
    if not step_s:
        return None
    note = f"cut short after {len(step_s)} of {asked} steps: {error.message}"
    return outcome.model_copy(
        update={
            "partial": True,
            "measurement": measurement.model_copy(
                update={"step_s": step_s, "warnings": spread_warnings(step_s)}
            ),
            "notes": (*outcome.notes, note),
        }
    )
