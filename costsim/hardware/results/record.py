"""The values: a `Measurement` with its raw samples, a `Validation` with its verdicts.

Both are written as JSON (`costsim.measurement/1`, `costsim.validation/1`) and read back equal.
Bytes are bytes, times are seconds.
"""

import statistics
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from costsim.base.units import counted, format_percent
from costsim.device.base import Named
from costsim.hardware.results.document import Amount, Count, Document, Listed, Record

WIDE_SPREAD = 0.2
"""An interquartile range above this share of the median deserves a warning."""


class Machine(Record):
    """Where it ran; `threads` are those PyTorch computed on."""

    cpu: str
    cores: Count
    threads: Count
    memory_bytes: Count
    system: str


class MeasuredBuffer(Record):
    """The storage really found behind one buffer of the program.

    `owner` is the layer it belongs to, or the call where there is no layer. `kept`: it was there
    at the end of the forward pass and still at the first operation after the loss.
    """

    name: str
    category: str
    owner: str | None
    bytes: Count
    kept: bool


class MeasuredOperation(Record):
    """One operation as it ran.

    `live_bytes`: of the distinct storages alive when it ended; `process_bytes`: the most that the
    allocators had given out at any moment of it; `macs`: of the operator calls it made, over all
    passes of a step.
    """

    name: str
    direction: str
    owner: str | None
    live_bytes: Count
    process_bytes: Count
    macs: Count


class AllocatorSummary(Record):
    """The allocators' own events of one step, PyTorch's and numpy's.

    `start_bytes` were there before and belong to the program (updated weights, optimizer state);
    `net_bytes` is what the step left behind.
    """

    events: Count
    allocated_bytes: Count
    freed_bytes: Count
    numpy_allocated_bytes: Count
    start_bytes: Count
    net_bytes: int

    @classmethod
    def of_an_arena(cls) -> "AllocatorSummary":
        """Of a step whose buffers are all at planned offsets: nothing is allocated."""
        return cls(
            events=0,
            allocated_bytes=0,
            freed_bytes=0,
            numpy_allocated_bytes=0,
            start_bytes=0,
            net_bytes=0,
        )


class Measurement(Document):
    """One training step measured: raw samples, and where they were taken.

    `step_s` are the seconds of each timed step. `uncounted_calls` are operator calls that look as
    if they multiplied, but that the counter has no rule for: where there are any, the MACs are
    too low.
    """

    schema_name: ClassVar[str] = "costsim.measurement/1"

    model: str
    machine: Machine
    versions: Named[str]
    dtype: str
    step_s: Annotated[tuple[Amount, ...], Listed]
    updated_weight_bytes: Count
    operations: Annotated[tuple[MeasuredOperation, ...], Listed]
    buffers: Annotated[tuple[MeasuredBuffer, ...], Listed]
    allocator: AllocatorSummary
    uncounted_calls: Annotated[tuple[str, ...], Listed] = ()
    warnings: Annotated[tuple[str, ...], Listed] = ()

    @property
    def median_s(self) -> float:
        """The median step, in seconds."""
        return statistics.median(self.step_s)

    @property
    def kept_bytes(self) -> int:
        """Bytes that outlived the forward pass for the backward pass."""
        return sum(buffer.bytes for buffer in self.buffers if buffer.kept)

    @property
    def program_peak_bytes(self) -> int:
        """The most bytes of the program's own buffers at the end of any operation."""
        return max(op.live_bytes for op in self.operations)

    @property
    def process_peak_bytes(self) -> int:
        """The most bytes the allocators had given out at any moment, frozen weights apart."""
        return max(op.process_bytes for op in self.operations)

    def bytes_of(self, category: str) -> int:
        """Bytes of all buffers of one category, each once."""
        return sum(buffer.bytes for buffer in self.buffers if buffer.category == category)

    def macs_of(self, direction: str) -> int:
        """MACs of all operations of one direction."""
        return sum(op.macs for op in self.operations if op.direction == direction)


def spread_warnings(samples: tuple[float, ...]) -> tuple[str, ...]:
    """A sentence where the samples scatter too widely to compare with."""
    if len(samples) < 4:
        return (f"only {counted(len(samples), 'step')} timed: the spread is not known",)
    low, _, high = statistics.quantiles(samples, n=4)
    share = (high - low) / statistics.median(samples)
    if share <= WIDE_SPREAD:
        return ()
    return (
        f"the middle half of the {len(samples)} timed steps spans {format_percent(share)} of "
        "their median: something else was running",
    )


Verdict = Literal["within", "outside", "informal"]
Unit = Literal["bytes", "MACs", "s", "1"]


class Comparison(Record):
    """One quantity, predicted and measured, in `unit` (bytes, MACs, s; `1` for a plain number).

    `owner` is None for the whole step, else a layer (or a call without one). `tolerance` is a
    share of the prediction; `difference` is measured minus predicted. An informal comparison has
    no tolerance and no part in the verdict.
    """

    quantity: str
    owner: str | None
    unit: Unit
    predicted: Count | Amount
    measured: Count | Amount
    difference: int | float
    tolerance: Amount | None
    verdict: Verdict

    @classmethod
    def of(
        cls,
        quantity: str,
        predicted: float,
        measured: float,
        *,
        owner: str | None = None,
        unit: Unit = "bytes",
        tolerance: float | None = 0.0,
    ) -> "Comparison":
        """The comparison, with its verdict."""
        difference = measured - predicted
        verdict: Verdict = "informal"
        if tolerance is not None:
            verdict = "within" if abs(difference) <= tolerance * abs(predicted) else "outside"
        return cls(
            quantity=quantity,
            owner=owner,
            unit=unit,
            predicted=predicted,
            measured=measured,
            difference=difference,
            tolerance=tolerance,
            verdict=verdict,
        )


class Validation(Document):
    """Predicted beside measured, in total and by layer; `how` keeps what was emulated apart."""

    schema_name: ClassVar[str] = "costsim.validation/1"

    model: str
    device: str | None
    machine: Machine
    comparisons: Annotated[tuple[Comparison, ...], Listed]
    notes: Annotated[tuple[str, ...], Listed] = ()
    how: Literal["measured", "emulated"] = "measured"

    @property
    def ok(self) -> bool:
        """Whether everything that has a tolerance is within it."""
        return not self.outside

    @property
    def outside(self) -> tuple[Comparison, ...]:
        """What is not within its tolerance."""
        return tuple(one for one in self.comparisons if one.verdict == "outside")

    def totals(self) -> Iterator[Comparison]:
        """The comparisons of the whole step."""
        return (one for one in self.comparisons if one.owner is None)

    def by_owner(self) -> dict[str, dict[str, Comparison]]:
        """The comparisons of each layer, by quantity, in the order of the model."""
        found: dict[str, dict[str, Comparison]] = {}
        for one in self.comparisons:
            if one.owner is not None:
                found.setdefault(one.owner, {})[one.quantity] = one
        return found
