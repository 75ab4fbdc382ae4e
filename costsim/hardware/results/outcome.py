"""What comes back from a target."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from costsim.device.base import Named
from costsim.hardware.results.document import Document, Listed, Record
from costsim.hardware.results.record import Measurement

Amount = Annotated[float, Field(ge=0)]


class EnergyReading(Record):
    """Joules that a counter saw go by while the timed steps ran.

    `counter` says which, `source` what sort of instrument it belongs to (counters of one source
    count different parts of a machine and may be added). `per_step_j` is the whole divided by the
    steps; `idle_w` what the machine drew before, at rest.
    """

    source: str
    counter: str
    total_j: Amount
    seconds: Amount
    per_step_j: Amount
    idle_w: Amount | None = None


class Outcome(Document):
    """What one job brought back.

    `how` keeps what a device did apart from what an emulator did. `measurement` belongs to a plan;
    where nothing was timed (an emulator counts, it does not time) its `step_s` is empty. `counts`
    are further numbers of the target's own (instructions, cycles). `samples` is the document that a
    batch of micro-kernels returned. `processor_step_s` are seconds of the processor for further
    steps, in which other programs have no part; empty on several threads, where there is no such
    clock. `energy` is empty where the machine has no counter, and
    `notes` say so. `partial`: the job did not get to its end, and these are the steps it had timed.
    """

    schema_name: ClassVar[str] = "costsim.outcome/1"

    target: str
    how: Literal["measured", "emulated"]
    measurement: Measurement | None = None
    processor_step_s: Annotated[tuple[Amount, ...], Listed] = ()
    samples: Any = None
    counts: Named[Amount] = Field(default_factory=dict, validate_default=True)
    conditions: Named[str | int | float | None] = Field(default_factory=dict, validate_default=True)
    energy: Annotated[tuple[EnergyReading, ...], Listed] = ()
    notes: Annotated[tuple[str, ...], Listed] = ()
    partial: bool = False

    def joules_by_source(self) -> dict[str, float]:
        """Joules of a step by instrument, its counters added."""
        found: dict[str, float] = {}
        for one in self.energy:
            found[one.source] = found.get(one.source, 0.0) + one.per_step_j
        return found
