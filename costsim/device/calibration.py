"""What a calibration found out about a target: a law for each kernel, and how far to trust it.

A law is the sum of three terms, fitted with none below zero:

    seconds = overhead_s + macs * s_per_mac + moved_bytes * s_per_byte

A step takes the sum over its operations times `step_factor`, for what a step does between them.
Errors come in two parts. One is shared by all operations of a step (the state of the machine, a
family of kernels that the law does not describe well); one belongs to each operation alone and
averages out in long programs. With relative standard deviations c and s_i the total T = sum t_i
has the relative variance

    c^2 + sum (s_i t_i)^2 / T^2

and its 90 % interval is T exp(-z r) to T exp(z r), r the root of that, z = 1.645.
"""

import math
import statistics
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, field_validator, model_validator

from costsim.base.nearness import nearest
from costsim.device.base import Named, Part, refuse
from costsim.device.interval import Interval
from costsim.ir.operators import OPERATORS, WORK_KINDS

Floats = NDArray[np.float64]
Amount = Annotated[float, Field(ge=0)]

QUANTILE = 1.6448536269514722
"""Standard deviations either way that hold 90 % of a normal distribution."""

SAMPLE = "MACs bytes seconds"
"""What each sample of a law is, in the text that holds them all."""
ASTRAY = 50.0
"""A law further off its own samples (median) than this was not fitted to them: refining by real
plans moves a part by no more than 20 times."""
MOST_FACTOR, MOST_COMMON = 1e3, 10.0

DIRECTIONS = ("forward", "input_gradient", "weight_gradient", "bias_gradient")
FAMILIES = frozenset(
    {"keep", "loss", "accumulate", "update"}
    | {f"{kind} {direction}" for kind in (*OPERATORS, *WORK_KINDS) for direction in DIRECTIONS}
)
"""What kernels are called before the first comma; see `costsim.device.kernels`."""


class _Numbers(Part):
    model_config = ConfigDict(allow_inf_nan=False)


class Conditions(_Numbers):
    """Under which a calibration was taken; what the system does not tell is None.

    `clock_hz`, `temperature_c` and `load` are what was seen at its start, `slowest_clock_hz` and
    `hottest_c` the worst that was seen until its end.
    """

    cpu: str
    cores: Annotated[int, Field(ge=1)]
    threads: Annotated[int, Field(ge=1)]
    memory_bytes: Annotated[int, Field(ge=1)]
    system: str
    versions: Named[str]
    governor: str | None = None
    clock_hz: Amount | None = None
    temperature_c: float | None = None
    load: Amount | None = None
    slowest_clock_hz: Amount | None = None
    hottest_c: float | None = None

    def until(self, later: "Conditions") -> "Conditions":
        """These, with the worst of both."""
        clocks = (self.slowest_clock_hz, self.clock_hz, later.slowest_clock_hz, later.clock_hz)
        degrees = (self.hottest_c, self.temperature_c, later.hottest_c, later.temperature_c)
        return self.model_copy(
            update={
                "slowest_clock_hz": min((hz for hz in clocks if hz is not None), default=None),
                "hottest_c": max((c for c in degrees if c is not None), default=None),
            }
        )

    def unlike(self, machine: Any) -> Iterator[str]:
        """What keeps a step measured on `machine` (its cpu, cores, threads) from being compared."""
        for name in ("cpu", "cores", "threads"):
            mine, others = getattr(self, name), getattr(machine, name)
            if mine != others:
                yield f"{name} {others}, not {mine}"

    def differences(self, other: "Conditions") -> Iterator[str]:
        """What keeps measurements under the two from being mixed, one phrase each."""
        for name in ("cpu", "cores", "threads", "system", "governor"):
            mine, others = getattr(self, name), getattr(other, name)
            if mine != others:
                yield f"{name} {mine} and {others}"
        for name in sorted({*self.versions, *other.versions}):
            found = self.versions.get(name), other.versions.get(name)
            if found[0] != found[1]:
                yield f"{name} {found[0]} and {found[1]}"


class Law(_Numbers):
    """How long one kernel takes; `spread` is the relative standard deviation of one operation.

    `samples` are the medians it was fitted to, each as `MACs bytes seconds`, separated by commas.
    """

    overhead_s: Amount
    s_per_mac: Amount
    s_per_byte: Amount
    spread: Amount
    samples: str = ""

    @model_validator(mode="after")
    def _takes_time(self) -> "Law":
        if not (self.overhead_s or self.s_per_mac or self.s_per_byte):
            raise refuse("all three terms are zero; a kernel takes some time")
        return self

    @field_validator("samples")
    @classmethod
    def _readable(cls, text: str) -> str:
        list(_samples(text))
        return text

    @model_validator(mode="after")
    def _describes_its_samples(self) -> "Law":
        ratios = [
            self.seconds(macs, moved) / seconds for macs, moved, seconds in _samples(self.samples)
        ]
        if ratios and not 1 / ASTRAY < (middle := statistics.median(ratios)) < ASTRAY:
            raise refuse(
                f"the law gives {middle:.3g} times the seconds of its own samples: it was changed "
                "by hand; calibrate again"
            )
        return self

    def seconds(self, macs: Any, moved_bytes: Any) -> Any:
        """Seconds of operations of these sizes; numbers or arrays."""
        return self.overhead_s + self.s_per_mac * macs + self.s_per_byte * moved_bytes


def _samples(text: str) -> Iterator[tuple[float, float, float]]:
    """The samples in a text; raises pydantic's error for one that is none."""
    for sample in filter(None, (part.strip() for part in text.split(","))):
        try:
            values = [float(word) for word in sample.split()]
        except ValueError:
            values = []
        if len(values) != 3 or not all(0 <= v < math.inf for v in values) or values[2] == 0:
            raise refuse(f"sample {sample!r} is not {SAMPLE!r}, none below zero")
        yield values[0], values[1], values[2]


class Calibration(_Numbers):
    """The laws of a target, measured on it.

    `common` is the relative standard deviation that all operations of a step share,
    `noise_floor` the relative difference between two measurements of the same kernel (median).
    `yardstick_s` is what one fixed small step took: by it a later measurement can tell whether the
    machine is as fast as it was. `refined`: by what measurements of real plans the laws were moved
    since, if by any; their samples are those of before. `left_out` are the residuals that `common`
    is from: the logarithm of measured over predicted step for each probe left out of a fit.
    """

    conditions: Conditions
    taken: str
    step_factor: Annotated[float, Field(gt=1 / MOST_FACTOR, lt=MOST_FACTOR)]
    common: Annotated[float, Field(ge=0, le=MOST_COMMON)]
    noise_floor: Amount
    yardstick_s: Annotated[float, Field(gt=0)]
    probes: Annotated[int, Field(ge=1)]
    kernels: Named[Law]
    left_out: Named[float] = Field(default_factory=dict, validate_default=True)
    refined: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> "Calibration":
        if not self.kernels:
            raise refuse("empty; at least one kernel is needed", "kernels")
        for name in self.kernels:
            if name.partition(",")[0] not in FAMILIES:
                near = nearest(name.partition(",")[0], FAMILIES)
                told = f"did you mean {near!r}?" if near else "one is called 'linear forward'"
                raise refuse(f"{name!r} is no kernel; {told}", "kernels")
        return self

    def seconds(self, kernel: str | None, macs: Any, moved_bytes: Any) -> Any:
        """Seconds that an operation adds to a step; None for a kernel that was not measured."""
        law = self.kernels.get(kernel) if kernel is not None else None
        return None if law is None else self.step_factor * law.seconds(macs, moved_bytes)

    def deviation(self, times: Mapping[str, Floats]) -> float:
        """The relative standard deviation of a sum of `times`, seconds by kernel."""
        total = sum(float(each.sum()) for each in times.values())
        own = sum(
            self.kernels[kernel].spread ** 2 * float((each**2).sum())
            for kernel, each in times.items()
        )
        return math.sqrt(self.common**2 + own / total**2) if total else 0.0

    def interval(self, times: Mapping[str, Floats]) -> Interval:
        """The sum of `times`, seconds by kernel, with its 90 % interval."""
        total = sum(float(each.sum()) for each in times.values())
        return around(total, self.deviation(times))


def around(value: float, deviation: float) -> Interval:
    """`value` with the 90 % interval of a relative standard deviation."""
    factor = math.exp(QUANTILE * deviation)
    return Interval(value, value / factor, value * factor)
