"""How a machine was while it measured: clock, governor, temperature, load, as far as it tells."""

import os
from dataclasses import dataclass
from pathlib import Path

SLOWED = 0.9
"""A clock that ends below this share of where it began deserves a word."""

_CPU = "sys/devices/system/cpu/cpu0/cpufreq"
_THERMAL = "sys/class/thermal"


@dataclass(frozen=True)
class Snapshot:
    """One look; None for what the system does not tell."""

    governor: str | None
    clock_hz: float | None
    temperature_c: float | None
    load: float | None

    @classmethod
    def now(cls, root: Path = Path("/")) -> "Snapshot":
        """This machine at this moment; `root` stands for `/` in tests."""
        khz = _number(root / _CPU / "scaling_cur_freq")
        zones = [_number(zone) for zone in (root / _THERMAL).glob("thermal_zone*/temp")]
        degrees = [value / 1e3 for value in zones if value is not None]
        return cls(
            governor=_text(root / _CPU / "scaling_governor") or None,
            clock_hz=None if khz is None else khz * 1e3,
            temperature_c=max(degrees, default=None),
            load=os.getloadavg()[0],
        )


def describe_change(before: Snapshot, after: Snapshot) -> dict[str, str | int | float | None]:
    """Both looks as the `conditions` of an outcome: `clock_hz` at the end, `clock_hz before`."""
    found: dict[str, str | int | float | None] = {}
    for name in ("governor", "clock_hz", "temperature_c", "load"):
        found[f"{name} before"] = getattr(before, name)
        found[name] = getattr(after, name)
    return found


def doubts(before: Snapshot, after: Snapshot, threads: int, cores: int) -> tuple[str, ...]:
    """Sentences on what makes the seconds between two looks doubtful."""
    found = []
    if before.clock_hz and after.clock_hz and after.clock_hz < SLOWED * before.clock_hz:
        found.append(
            f"the clock fell from {before.clock_hz / 1e6:.0f} to {after.clock_hz / 1e6:.0f} MHz "
            "while it ran: too hot, or a governor that saves power"
        )
    if before.load is not None and before.load + threads > cores + 0.5:
        found.append(
            f"other programs were running: load {before.load:.1f} on {cores} cores before it began"
        )
    return tuple(found)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _number(path: Path) -> float | None:
    try:
        return float(_text(path))
    except ValueError:
        return None
