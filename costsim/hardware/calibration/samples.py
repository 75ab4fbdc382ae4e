"""What was seen of probes: kept in a file from the first one on, so that a run can go on.

The file is JSON (`costsim.samples/1`): the conditions, and every reading in nanoseconds. It is
written whole after each probe. A file of other conditions is refused, never mixed.
"""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, model_validator

from costsim.base.errors import InputError
from costsim.device.base import refuse
from costsim.device.calibration import Conditions
from costsim.hardware.calibration.probes import Probe, parse_probe
from costsim.hardware.results.document import Document, Listed, Record

Floats = NDArray[np.float64]
LONGEST_NS = 10**13
"""No step that a person waits for takes hours."""
APART = 100.0
"""A step this many times longer or shorter than the sum of its operations is no reading of it."""

Nanoseconds = Annotated[int, Field(ge=0, le=LONGEST_NS)]
Readings = Annotated[
    tuple[Annotated[int, Field(gt=0, le=LONGEST_NS)], ...], Listed, Field(min_length=1)
]


def _rows(given: object) -> object:
    if not isinstance(given, list):
        return given
    return tuple(tuple(row) if isinstance(row, list) else row for row in given)


class ProbeReadings(Record):
    """One visit to a probe: its steps, the yardstick's steps between them, and each operation.

    `operations` is [repetition][operation].
    """

    name: str
    steps: Readings
    yardstick: Readings
    operations: Annotated[
        tuple[tuple[Nanoseconds, ...], ...], BeforeValidator(_rows), Field(min_length=1)
    ]

    @model_validator(mode="after")
    def _add_up(self) -> "ProbeReadings":
        step = statistics.median(self.steps)
        parts = statistics.median(sum(row) for row in self.operations)
        if not step / APART < parts < step * APART:
            raise refuse(
                f"operations of {parts:g} ns do not make a step of {step:g} ns", "operations"
            )
        return self

    @property
    def probe(self) -> Probe:
        """The probe that was run."""
        return parse_probe(self.name)


class SampleFile(Document):
    """Every reading of a calibration, and the conditions they were taken under."""

    schema_name = "costsim.samples/1"

    conditions: Conditions
    probes: Annotated[tuple[ProbeReadings, ...], Listed]

    def with_readings(self, more: "SampleFile", source: str) -> "SampleFile":
        """Both together; raises `InputError` if they were taken under different conditions."""
        check_conditions(self.conditions, more.conditions, source)
        return self.model_copy(
            update={
                "conditions": self.conditions.until(more.conditions),
                "probes": (*self.probes, *more.probes),
            }
        )


def check_conditions(kept: Conditions, now: Conditions, source: str) -> None:
    """Raise `InputError` if measurements under the two must not be mixed."""
    if differences := list(kept.differences(now)):
        raise InputError(
            f"{source}: taken under other conditions than now ({'; '.join(differences)}); they "
            "cannot be mixed: move the file away to start afresh"
        )


def read_samples(path: Path) -> SampleFile:
    """The file; raises `InputError` naming it and the key."""
    found = SampleFile.read(path)
    for readings in found.probes:
        operations = len(readings.probe.program().operations)
        if any(len(row) != operations for row in readings.operations):
            raise InputError(
                f"{path}: probes: {readings.name} has {operations} operations; "
                f"its readings are of {len(readings.operations[0])}"
            )
    return found


@dataclass(frozen=True)
class Seen:
    """A probe as seen over all visits: median seconds, at the yardstick's usual speed.

    `operation_s` has one entry an operation of the program, `step_s` is of an undisturbed step.
    `visits_s` are the medians of each visit, as they came.
    """

    probe: Probe
    operation_s: Floats
    step_s: float
    visits_s: tuple[float, ...]


def seen(samples: SampleFile) -> list[Seen]:
    """Every probe once, in the order of its first visit.

    Each visit is scaled by the yardstick: what the machine did to that, in the same seconds, it
    did to the probe as well.
    """
    usual = 1e9 * yardstick_seconds(samples)
    visits: dict[str, list[tuple[float, ProbeReadings]]] = {}
    for readings in samples.probes:
        scale = usual / statistics.median(readings.yardstick)
        visits.setdefault(readings.name, []).append((scale, readings))
    return [_pooled(found) for found in visits.values()]


def _pooled(visits: list[tuple[float, ProbeReadings]]) -> Seen:
    operations = np.concatenate([scale * np.array(r.operations, float) for scale, r in visits])
    steps = np.concatenate([scale * np.array(r.steps, float) for scale, r in visits])
    return Seen(
        visits[0][1].probe,
        np.median(operations, axis=0) / 1e9,
        float(np.median(steps)) / 1e9,
        tuple(statistics.median(r.steps) / 1e9 for _, r in visits),
    )


def yardstick_seconds(samples: SampleFile) -> float:
    """What the yardstick usually took: the median over all visits."""
    return statistics.median(_yardsticks(samples)) / 1e9


def _yardsticks(samples: SampleFile) -> Iterator[float]:
    for readings in samples.probes:
        yield statistics.median(readings.yardstick)


def noise_floor(samples: SampleFile) -> float:
    """By how much two measurements of the same kernel differ, as a share of them: the median.

    Over the visits to the yardstick, each against the next: they are the same work in the same
    process, some seconds apart.
    """
    lengths = list(_yardsticks(samples))
    pairs = pairwise(lengths)
    differences = [abs(a - b) / (0.5 * (a + b)) for a, b in pairs]
    return statistics.median(differences) if differences else 0.0
