"""A compute target of a device: how fast each kind of work goes, and what it draws meanwhile."""

import math
from collections.abc import Iterable, Mapping
from itertools import repeat
from typing import Any, Literal, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from costsim.base.errors import InputError
from costsim.device.base import Part, refuse
from costsim.device.calibration import Calibration, around
from costsim.device.interval import Interval
from costsim.device.quantity import (
    BytesPerSecond,
    Count,
    Hertz,
    MacsPerSecond,
    Quantity,
    Seconds,
    Watts,
)
from costsim.ir.operators import WORK_KINDS
from costsim.ir.step import BitWidths

Bound: TypeAlias = Literal["value", "low", "high"]
Numbers: TypeAlias = NDArray[Any]
Floats: TypeAlias = NDArray[np.float64]

BOUNDS: tuple[Bound, ...] = ("value", "low", "high")
"""The believed value first."""

ELEMENTWISE_RATE: Mapping[str, str] = {
    "forward": "forward",
    "loss": "forward",
    "recompute": "forward",
    "keep": "forward",
    "input_gradient": "input_gradient",
    "weight_gradient": "weight_gradient",
    "bias_gradient": "weight_gradient",
    "accumulate": "update",
    "score": "forward",
    "update": "update",
}
"""Which byte rate prices work without MACs, by direction; its keys are the directions known."""


class MacRates(Part):
    """MACs a second of one kind of work, in 32-bit floats, by direction."""

    forward: MacsPerSecond
    input_gradient: MacsPerSecond
    weight_gradient: MacsPerSecond


class ByteRates(Part):
    """Bytes a second, read and written together, of work without MACs, by direction."""

    forward: BytesPerSecond
    input_gradient: BytesPerSecond
    weight_gradient: BytesPerSecond
    update: BytesPerSecond


class Throughput(Part):
    """A rate for every kind of work; the kinds are `costsim.ir.operators.WORK_KINDS`."""

    convolution: MacRates
    depthwise_convolution: MacRates
    pointwise_convolution: MacRates
    linear: MacRates
    matmul: MacRates
    elementwise: ByteRates


class Peak(Part):
    """The most MACs a second that the arithmetic units can do, by number format."""

    fp32: MacsPerSecond
    fp16: MacsPerSecond | None = None
    int8: MacsPerSecond | None = None


class Power(Part):
    """What the whole board draws in each state."""

    compute: Watts
    memory: Watts
    idle: Watts


class ComputeTarget(Part):
    """One processor of a device.

    `overhead` is spent once an operation (dispatch, loop set-up), `bandwidth` is what memory
    sustains for this processor. The rates of `throughput` are for 32-bit floats, those of
    `throughput_int8` for 8-bit integers; other formats are priced as 32 bits, apart from the fewer
    bytes they move. Where there is a `calibration`, its laws go before all of these for the
    kernels that it knows.
    """

    title: str = Field(min_length=1)
    clock: Hertz
    threads: Count
    peak: Peak
    bandwidth: BytesPerSecond
    overhead: Seconds
    throughput: Throughput
    throughput_int8: Throughput | None = None
    power: Power
    calibration: Calibration | None = None

    @model_validator(mode="after")
    def _plausible(self) -> "ComputeTarget":
        self._check_rates("throughput", self.peak.fp32)
        if self.throughput_int8 is not None:
            if self.peak.int8 is None:
                raise refuse("missing; rates of 8-bit kernels need it", "peak.int8")
            self._check_rates("throughput_int8", self.peak.int8)
        return self

    @model_validator(mode="after")
    def _calibrated_on_its_threads(self) -> "ComputeTarget":
        if self.calibration is not None:
            found, wanted = self.calibration.conditions.threads, int(self.threads.value)
            if found != wanted:
                raise refuse(
                    f"{found}, but the target has {wanted} threads: a calibration holds for the "
                    "number that it was taken on",
                    "calibration.conditions.threads",
                )
        return self

    def _check_rates(self, table: str, peak: MacsPerSecond) -> None:
        for kind in WORK_KINDS:
            rates: Part = getattr(getattr(self, table), kind)
            limit: Quantity = self.bandwidth if isinstance(rates, ByteRates) else peak
            for direction in type(rates).model_fields:
                rate: Quantity = getattr(rates, direction)
                if rate.value > limit.value:
                    raise refuse(
                        f"{rate} is more than the {limit} that the target can do at all",
                        f"{table}.{kind}.{direction}",
                    )

    def at(self, bits: BitWidths) -> "ComputeTarget":
        """The target as a step of these widths finds it: with the rates of 8-bit kernels.

        Those hold where both weights and activations have 8 bits, in all directions: what a
        gradient takes is to widen values of 8 bits, whatever it is itself. A target without them,
        or at other widths, is returned as it is.
        """
        narrow = self.throughput_int8
        if narrow is None or self.peak.int8 is None or {bits.weights, bits.activations} != {8}:
            return self
        peak = self.peak.model_copy(update={"fp32": self.peak.int8})
        return self.model_copy(update={"throughput": narrow, "peak": peak})

    def _rates(self, work_kind: str, direction: str) -> tuple[Quantity | None, Quantity]:
        """The MAC rate, if this work has MACs to do, and the byte rate."""
        if work_kind not in WORK_KINDS:
            raise InputError(f"work kind {work_kind!r}; allowed are {', '.join(WORK_KINDS)}")
        if direction not in ELEMENTWISE_RATE:
            raise InputError(f"direction {direction!r}; allowed are {', '.join(ELEMENTWISE_RATE)}")
        direction = "forward" if direction == "recompute" else direction
        rates = getattr(self.throughput, work_kind)
        if isinstance(rates, MacRates) and direction in MacRates.model_fields:
            return getattr(rates, direction), self.bandwidth
        return None, getattr(self.throughput.elementwise, ELEMENTWISE_RATE[direction])

    @overload
    def operation_seconds(
        self,
        work_kind: str,
        direction: str,
        macs: float,
        moved_bytes: float,
        bound: Bound = "value",
        *,
        kernel: str | None = None,
    ) -> float: ...

    @overload
    def operation_seconds(
        self,
        work_kind: str,
        direction: str,
        macs: Numbers,
        moved_bytes: Numbers,
        bound: Bound = "value",
        *,
        kernel: str | None = None,
    ) -> Floats: ...

    def operation_seconds(
        self,
        work_kind: str,
        direction: str,
        macs: float | Numbers,
        moved_bytes: float | Numbers,
        bound: Bound = "value",
        *,
        kernel: str | None = None,
    ) -> float | Floats:
        """Seconds of one operation: `overhead + max(macs / throughput, moved_bytes / bandwidth)`.

        The roofline model (Williams, Waterman and Patterson, 2009) with a rate for each kind
        and direction. `macs` and `moved_bytes` are numbers or arrays of one shape; so is the
        answer. `bound` asks for the believed value, or for the `low` or `high` end of it: all
        rates at their best or at their worst. No rate is ever taken above the peak. Work
        without MACs (an elementwise kind, a copy, an update) takes its bytes over the
        elementwise rate of its direction. With a calibration that knows the `kernel`
        (`costsim.device.kernels`) its law is taken instead.

        Raises `InputError` for an unknown kind or direction, a negative amount, or MACs in work
        that has no MAC rate.
        """
        mac_rate, byte_rate = self._rates(work_kind, direction)
        macs_array, bytes_array = np.asarray(macs, float), np.asarray(moved_bytes, float)
        if (macs_array < 0).any() or (bytes_array < 0).any():
            raise InputError(f"{work_kind} {direction}: negative MACs or bytes")
        if self.calibration is not None:
            known = self.calibration.seconds(kernel, macs_array, bytes_array)
            if known is not None and kernel is not None:
                law = self.calibration.kernels[kernel]
                deviation = math.hypot(self.calibration.common, law.spread)
                known = known * getattr(around(1.0, deviation), bound)
                return known if np.ndim(known) else float(known)
        seconds = bytes_array / _rate(byte_rate, self.bandwidth, bound)
        if mac_rate is not None:
            seconds = np.maximum(macs_array / _rate(mac_rate, self.peak.fp32, bound), seconds)
        elif (macs_array > 0).any():
            raise InputError(f"{work_kind} {direction} has MACs but no rate for them")
        seconds = seconds + getattr(self.overhead.interval, bound)
        return seconds if np.ndim(seconds) else float(seconds)

    def operation_interval(
        self,
        work_kind: str,
        direction: str,
        macs: float,
        moved_bytes: float,
        *,
        kernel: str | None = None,
    ) -> Interval:
        """`operation_seconds` of one operation with its range."""
        return Interval(
            *(
                self.operation_seconds(
                    work_kind, direction, macs, moved_bytes, bound, kernel=kernel
                )
                for bound in BOUNDS
            )
        )

    def total_seconds(
        self,
        work: Iterable[tuple[str, str, float, float] | tuple[str, str, float, float, str]],
        times: Iterable[int] | None = None,
    ) -> Interval:
        """Seconds of operations done one after another: (kind, direction, macs, bytes[, kernel]).

        Each is done once, or so many `times`: as if it stood there as often.

        What is calibrated has the interval of its calibration, in which the errors that belong
        to single operations average out; the ranges of everything else are added end to end.
        """
        groups: dict[tuple[str, str, str | None], list[tuple[float, float, int]]] = {}
        for (kind, direction, macs, moved_bytes, *kernel), often in zip(
            work, repeat(1) if times is None else times, strict=times is not None
        ):
            group = (kind, direction, kernel[0] if kernel else None)
            groups.setdefault(group, []).append((macs, moved_bytes, often))
        total = Interval.exactly(0.0)
        calibrated: dict[str, Floats] = {}
        for (kind, direction, name), amounts in groups.items():
            macs_array, bytes_array, often_array = np.asarray(amounts, float).T
            counts = often_array.astype(int)
            macs_array, bytes_array = macs_array.repeat(counts), bytes_array.repeat(counts)
            ends = BOUNDS
            if self.calibration is not None and name in self.calibration.kernels:
                ends = BOUNDS[:1]
            seconds = [
                self.operation_seconds(kind, direction, macs_array, bytes_array, bound, kernel=name)
                for bound in ends
            ]
            if len(seconds) == 1:
                assert name is not None
                before = calibrated.get(name, np.empty(0))
                calibrated[name] = np.concatenate((before, seconds[0]))
            else:
                total = total + Interval(*(float(each.sum()) for each in seconds))
        if self.calibration is not None and calibrated:
            total = total + self.calibration.interval(calibrated)
        return total

    def joules(
        self,
        compute_s: Interval,
        swap_s: Interval | None = None,
        idle_s: Interval | None = None,
    ) -> Interval:
        """Energy: the board's power in each state times the time in it."""
        energy = self.power.compute.interval * compute_s
        if swap_s is not None:
            energy = energy + self.power.memory.interval * swap_s
        if idle_s is not None:
            energy = energy + self.power.idle.interval * idle_s
        return energy


def _rate(rate: Quantity, limit: Quantity, bound: Bound) -> float:
    """The rate that gives the asked end of a duration: the fastest gives the lowest."""
    if bound == "value":
        return rate.value
    if bound == "high":
        return rate.interval.low
    # A bandwidth is its own limit: its range says how far it may go.
    ceiling = limit.interval.high if isinstance(limit, BytesPerSecond) else limit.value
    return min(rate.interval.high, ceiling)
