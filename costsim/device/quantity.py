"""Numbers of a device file: a value with a unit, where it comes from and how far to trust it.

How wide an interval a number without its own `low` and `high` gets, as a factor either way:

- `datasheet`, 3: a vendor's figure is a limit under ideal conditions or a single operating
  point; sustained rates of real kernels lie anywhere from a third of a derived figure to a
  few times it. (A size or a clock is exact: it enters no interval.)
- `estimate`, 3: derived here from such figures, the derivation being its source.
- `published`, 1.5: somebody measured it, on another network, library version or board.
- `calibrated`: measured on this board by this program, which knows its own residuals and must
  write `low` and `high` itself.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from costsim.base import units
from costsim.base.errors import InputError
from costsim.device.base import Part, refuse
from costsim.device.interval import Interval

Provenance: TypeAlias = Literal["datasheet", "published", "calibrated", "estimate"]

INTERVAL_FACTORS: Mapping[str, float] = {"datasheet": 3.0, "estimate": 3.0, "published": 1.5}


BARE = "a bare value; nobody said where it comes from"
"""The source of a number that stands without one."""


class Quantity(Part):
    """One number: `value` in the base unit of its class, its `source` and `provenance`.

    In a file `value`, `low` and `high` are text with a unit or plain numbers in the base unit. A
    bare value in place of the mapping is an estimate whose source nobody gave.
    """

    example: ClassVar[str]
    """As a file might say it."""
    scales: ClassVar[dict[str, float]]
    unit: ClassVar[str]
    minimum: ClassVar[float | None] = None
    """Smallest value allowed; without one the value must be above zero."""
    maximum: ClassVar[float] = math.inf

    value: float
    low: float | None = None
    high: float | None = None
    provenance: Provenance
    source: str = Field(min_length=1)

    @classmethod
    def _written_out(cls, data: Any) -> Any:
        """A bare value is an estimate of nobody's: it gets the range that one deserves."""
        if isinstance(data, str | int | float) and not isinstance(data, bool):
            return {"value": data, "provenance": "estimate", "source": BARE}
        return data

    @field_validator("value", "low", "high", mode="before")
    @classmethod
    def _read(cls, given: Any) -> float | None:
        return None if given is None else cls.read(given)

    @field_validator("source")
    @classmethod
    def _source_says_something(cls, source: str) -> str:
        if not source.strip():
            raise refuse("is empty; say where the number comes from")
        return source

    @model_validator(mode="after")
    def _consistent(self) -> "Quantity":
        if (self.low is None) != (self.high is None):
            raise refuse("low and high come together or not at all")
        if self.low is not None and self.high is not None:
            if not self.low <= self.value <= self.high:
                raise refuse(
                    f"low {self.low:g}, value {self.value:g}, high {self.high:g}: not in order"
                )
        elif self.provenance == "calibrated":
            raise refuse("a calibrated number needs low and high, from its residuals")
        return self

    @classmethod
    def read(cls, given: Any) -> float:
        """`given`, text or number, in the base unit; raises pydantic's error for anything else."""
        allowed = ", ".join(unit for unit in cls.scales if unit)
        wanted = f"a number with one of {allowed}" if allowed else "a plain number"
        if isinstance(given, bool) or not isinstance(given, int | float | str):
            raise refuse(f"{given!r} is not a quantity; allowed is {wanted}")
        if isinstance(given, str):
            if given.strip().startswith("-"):
                raise refuse(f"{given!r} is negative; allowed is {wanted}, above zero")
            try:
                value = units.parse_quantity(given, cls.scales, "quantity")
            except InputError as error:
                raise refuse(str(error).removeprefix("quantity: ")) from error
        else:
            try:
                value = float(given)
            except OverflowError:
                value = math.inf
        if not math.isfinite(value):
            raise refuse(f"{given!r} is not a finite number; allowed is {wanted}")
        if value < 0 or (cls.minimum is None and value == 0):
            raise refuse(f"{given!r} is not above zero; allowed is {wanted}, above zero")
        if not (cls.minimum or 0.0) <= value <= cls.maximum:
            raise refuse(f"{given!r} is outside {cls.minimum or 0:g} to {cls.maximum:g}")
        return value

    @property
    def interval(self) -> Interval:
        """The value with its own range, or the one its provenance implies."""
        if self.low is not None and self.high is not None:
            return Interval(self.value, self.low, self.high)
        factor = INTERVAL_FACTORS[self.provenance]
        return Interval(self.value, self.value / factor, self.value * factor)

    @staticmethod
    def format(value: float) -> str:
        """`value`, in the base unit, for a person."""
        return f"{value:g}"

    def __str__(self) -> str:
        return self.format(self.value)


class Bytes(Quantity):
    """A size; whole bytes are read from `value` with `int`."""

    example = "192KiB"
    scales = units.SIZE_UNITS
    unit = "B"
    format = staticmethod(units.format_bytes)


class Address(Quantity):
    """Where a memory begins: a multiple of 8 below 4 GiB, as a plain (hexadecimal) number."""

    example = "0x20000000"
    scales = units.COUNT_UNITS
    unit = ""
    minimum = 0.0
    maximum = 2.0**32 - 8

    @classmethod
    def read(cls, given: Any) -> float:
        """As of any quantity; refused if it is not a multiple of 8."""
        value = super().read(given)
        if value % 8:
            raise refuse(f"{given!r} is not a multiple of 8")
        return value

    @staticmethod
    def format(value: float) -> str:
        """In hexadecimal, as memory maps are written."""
        return f"{int(value):#010x}"


class Hertz(Quantity):
    """A clock frequency."""

    example = "160MHz"
    scales = units.FREQUENCY_UNITS
    unit = "Hz"
    format = staticmethod(units.format_hertz)


class BytesPerSecond(Quantity):
    """A bandwidth."""

    example = "600MB/s"
    scales = units.BANDWIDTH_UNITS
    unit = "B/s"
    format = staticmethod(units.format_bandwidth)


class MacsPerSecond(Quantity):
    """A rate of multiply-accumulates."""

    example = "50MMAC/s"
    scales = units.MAC_RATE_UNITS
    unit = "MAC/s"
    format = staticmethod(units.format_mac_rate)


class Seconds(Quantity):
    """A duration."""

    example = "2us"
    scales = units.TIME_UNITS
    unit = "s"
    format = staticmethod(units.format_seconds)


class Watts(Quantity):
    """A power."""

    example = "400mW"
    scales = units.POWER_UNITS
    unit = "W"
    format = staticmethod(units.format_watts)


class Joules(Quantity):
    """An energy."""

    example = "5J"
    scales = units.ENERGY_UNITS
    unit = "J"
    format = staticmethod(units.format_joules)


class Share(Quantity):
    """A part of a whole, 0 to 1."""

    example = "90%"
    scales = units.SHARE_UNITS
    unit = ""
    minimum = 0.0
    maximum = 1.0
    format = staticmethod(units.format_percent)


class Count(Quantity):
    """How many of something."""

    example = "1"
    scales = units.COUNT_UNITS
    unit = ""
    minimum = 1.0

    @classmethod
    def read(cls, given: Any) -> float:
        """As of any quantity; refused if it is not whole."""
        value = super().read(given)
        if not value.is_integer():
            raise refuse(f"{given!r} is not a whole number")
        return value
