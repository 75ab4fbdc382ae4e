"""A predicted number with the range it is believed to lie in."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite

from costsim.base.errors import InputError


@dataclass(frozen=True, slots=True)
class Interval:
    """`value` with `low <= value <= high`; the unit is in the name of the field that holds it.

    Sums add all lows and all highs: the errors of one device's rates are taken as fully shared
    by its operations (a kernel library that is half as fast as believed is so everywhere), so a
    sum of many operations is no more certain than one. Raises `InputError` for a range that is
    not finite or does not hold its value.
    """

    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not (isfinite(self.low) and isfinite(self.high) and self.low <= self.value <= self.high):
            raise InputError(
                f"interval {self.low} to {self.high} must be finite and hold {self.value}"
            )

    @classmethod
    def exactly(cls, value: float) -> "Interval":
        """A number without doubt."""
        return cls(value, value, value)

    @classmethod
    def total(cls, intervals: Iterable["Interval"]) -> "Interval":
        """The sum of `intervals`; zero for none."""
        result = cls.exactly(0.0)
        for interval in intervals:
            result = result + interval
        return result

    def __add__(self, other: "Interval") -> "Interval":
        return Interval(self.value + other.value, self.low + other.low, self.high + other.high)

    def __mul__(self, factor: "Interval | float") -> "Interval":
        """Product with another interval or number; neither may be below zero."""
        other = factor if isinstance(factor, Interval) else Interval.exactly(factor)
        if self.low < 0 or other.low < 0:
            raise InputError("intervals below zero cannot be multiplied")
        return Interval(self.value * other.value, self.low * other.low, self.high * other.high)

    def to_json(self) -> dict[str, float]:
        """`value`, `low` and `high`."""
        return {"value": self.value, "low": self.low, "high": self.high}

    @classmethod
    def from_json(cls, document: Mapping[str, float]) -> "Interval":
        """The interval that `to_json` wrote."""
        try:
            return cls(document["value"], document["low"], document["high"])
        except (KeyError, TypeError) as error:
            raise InputError(f"interval {document!r}: needs value, low and high") from error
