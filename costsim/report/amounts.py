"""How shares, and numbers with a range, are written for a person."""

from costsim.base.units import format_joules, format_seconds
from costsim.solving.planfile import Range


def seconds(value: Range) -> str:
    """Predicted seconds."""
    return interval(value.value, value.low, value.high)


def joules(value: Range) -> str:
    """Predicted joules."""
    return (
        f"{format_joules(value.value)} ({format_joules(value.low)} to {format_joules(value.high)})"
    )


def interval(value: float, low: float, high: float) -> str:
    """Seconds with their range, for a person."""
    return f"{format_seconds(value)} ({format_seconds(low)} to {format_seconds(high)})"


def percent(share: float) -> str:
    """A share as a percentage to three digits, of which none is lost to zeros alone."""
    if 0 < share < 1e-5:
        return "under 0.001 %"
    if not share:
        return "0 %"
    digits = 3 if share < 9.5e-5 else 2 if share < 0.0995 else 1 if share < 0.9995 else 0
    return f"{share * 100:.{digits}f} %"
