"""An adaptation, predicted beside measured: phase by phase, and the whole."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from costsim.device.base import Named
from costsim.hardware.results.document import Count
from costsim.hardware.results.record import Comparison, Validation
from costsim.solving.planfile import AdaptationRecord
from costsim.solving.planfile.records import PhaseRecord

AdaptationExtent: TypeAlias = Literal["small", "full"]

CAUSES = ("forward", "recompute", "input_gradient", "weight_gradient")
"""What MACs are counted by."""


class AdaptationValidation(Validation):
    """Predicted beside measured of all phases, each the `owner` of its comparisons.

    `runs` says how often each phase was really run; where `extent` is small that is a few times,
    and MACs and seconds are multiplied by how often the plan runs it.
    """

    schema_name: ClassVar[str] = "costsim.adaptation-validation/1"

    extent: AdaptationExtent
    runs: Named[Count]


@dataclass(frozen=True)
class MeasuredPhase:
    """One phase as measured: its program is run `times` for the task, and `runs` really took place.

    `macs` by cause and `seconds` are those of all `times`, in as many rounds as scoring takes.
    """

    runs: int
    times: int
    peak_bytes: int
    macs: Mapping[str, int]
    seconds: float


def compare_adaptation(
    predicted: AdaptationRecord,
    measured: Mapping[str, MeasuredPhase],
    stored_bytes: Mapping[str, int],
) -> tuple[Comparison, ...]:
    """Bytes, MACs and runs must be equal; seconds are shown, the plan's device not being this one.

    `stored_bytes` are those that lie in flash and in storage at once.
    """
    found = list(_whole(predicted, measured, stored_bytes))
    for phase in predicted.phases:
        if phase.phase in measured:
            found += _phase(phase, measured[phase.phase])
    planned: dict[str, int] = {phase.phase: phase.times for phase in predicted.phases}
    for name in sorted(measured.keys() ^ planned.keys()):
        times = measured[name].times if name in measured else 0
        found.append(Comparison.of("runs", planned.get(name, 0), times, owner=name, unit="1"))
    return tuple(found)


def _whole(
    predicted: AdaptationRecord,
    measured: Mapping[str, MeasuredPhase],
    stored_bytes: Mapping[str, int],
) -> Iterator[Comparison]:
    phases = measured.values()
    yield Comparison.of(
        "live peak", predicted.peak_bytes, max(phase.peak_bytes for phase in phases)
    )
    for place in sorted(predicted.stored_bytes.keys() | stored_bytes.keys()):
        yield Comparison.of(
            f"in {place}", predicted.stored_bytes.get(place, 0), stored_bytes.get(place, 0)
        )
    yield Comparison.of(
        "MACs", predicted.macs, sum(sum(phase.macs.values()) for phase in phases), unit="MACs"
    )
    if predicted.latency_s is not None:
        seconds = sum(phase.seconds for phase in phases)
        yield Comparison.of("time", predicted.latency_s.value, seconds, unit="s", tolerance=None)


def _phase(predicted: PhaseRecord, measured: MeasuredPhase) -> Iterator[Comparison]:
    owner = predicted.phase
    yield Comparison.of("runs", predicted.times, measured.times, owner=owner, unit="1")
    yield Comparison.of("live peak", predicted.peak_bytes, measured.peak_bytes, owner=owner)
    for cause in dict.fromkeys((*CAUSES, *measured.macs)):
        planned, found = getattr(predicted.macs, cause, 0), measured.macs.get(cause, 0)
        if planned or found:
            yield Comparison.of(f"{cause} MACs", planned, found, owner=owner, unit="MACs")
    seconds = predicted.compute_s.plus(predicted.storage_s)
    if predicted.swap_s is not None:
        seconds = seconds.plus(predicted.swap_s)
    yield Comparison.of(
        "time", seconds.value, measured.seconds, owner=owner, unit="s", tolerance=None
    )
