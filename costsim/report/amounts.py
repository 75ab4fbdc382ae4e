"""How numbers with a range are written for a person."""

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
