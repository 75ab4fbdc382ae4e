"""Quantities as people type and read them.

Inside the library a quantity is a plain number whose unit is in its name (`_bytes`, `_macs`,
`_s`, `_j`, `_hz`, `_w`); text is converted here and nowhere else.
"""

import math
import re

from costsim.base.errors import InputError

_NUMBER = re.compile(r"^\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z/%]*)\s*$")

_DECIMAL = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
SIZE_UNITS = {
    "": 1.0,
    "B": 1.0,
    "KB": 1e3,
    "kB": 1e3,
    "MB": 1e6,
    "GB": 1e9,
    "KiB": 2.0**10,
    "MiB": 2.0**20,
    "GiB": 2.0**30,
}
MAC_UNITS = {**_DECIMAL, **{f"{prefix}MAC": scale for prefix, scale in _DECIMAL.items()}}
TIME_UNITS = {"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "min": 60.0, "h": 3600.0}
ENERGY_UNITS = {"": 1.0, "J": 1.0, "mJ": 1e-3, "uJ": 1e-6, "kJ": 1e3, "Wh": 3600.0}
FREQUENCY_UNITS = {"": 1.0, "Hz": 1.0, "kHz": 1e3, "MHz": 1e6, "GHz": 1e9}
POWER_UNITS = {"": 1.0, "W": 1.0, "mW": 1e-3, "uW": 1e-6}
BANDWIDTH_UNITS = {unit and f"{unit}/s": scale for unit, scale in SIZE_UNITS.items()}
MAC_RATE_UNITS = {
    "": 1.0,
    **{f"{prefix}MAC/s": scale for prefix, scale in _DECIMAL.items() if prefix != "K"},
}
SHARE_UNITS = {"": 1.0, "%": 0.01}
COUNT_UNITS = {"": 1.0}


def _parse(text: str, units: dict[str, float], what: str) -> float:
    match = _NUMBER.match(text)
    allowed = ", ".join(unit for unit in units if unit)
    needed = f"give a number and one of {allowed}" if allowed else "give a plain number"
    if match is None:
        raise InputError(f"{what}: cannot read {text!r}; {needed}")
    number, unit = match.groups()
    if unit not in units:
        raise InputError(f"{what}: unknown unit {unit!r} in {text!r}; allowed are {allowed}")
    value = float(number) * units[unit]
    if not math.isfinite(value):
        raise InputError(f"{what}: {text!r} is not a finite number")
    return value


def parse_quantity(text: str, units: dict[str, float], what: str) -> float:
    """`text` in the base unit of `units`; raises `InputError` that lists the allowed units."""
    return _parse(text, units, what)


MOST_COUNTED = 10**9


def parse_count(text: str, least: int = 0) -> int | None:
    """A whole number in plain digits, from `least` to a billion; None for anything else.

    `str.isdigit` and `int` do not agree: of `²` the one says yes and the other raises, and more
    than 4,300 digits it does not read.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MOST_COUNTED))):
        return None
    return number if least <= (number := int(text)) <= MOST_COUNTED else None


def parse_bytes(text: str, what: str = "size") -> int:
    """`256KiB`, `1MB`, `4096` as whole bytes (KiB is 1024, KB is 1000)."""
    return math.floor(_parse(text, SIZE_UNITS, what))


def parse_macs(text: str, what: str = "MACs") -> int:
    """`6.5M`, `2GMAC`, `100000` as multiply-accumulates."""
    return math.floor(_parse(text, MAC_UNITS, what))


def parse_seconds(text: str, what: str = "time") -> float:
    """`2s`, `150ms`, `1min` as seconds."""
    return _parse(text, TIME_UNITS, what)


def parse_hertz(text: str, what: str = "clock") -> float:
    """Hertz in `160MHz`."""
    return parse_quantity(text, FREQUENCY_UNITS, what)


def parse_joules(text: str, what: str = "energy") -> float:
    """`5J`, `200mJ`, `1.2kJ` as joules."""
    return _parse(text, ENERGY_UNITS, what)


def parse_percent(text: str, what: str = "share") -> float | None:
    """`15%` as 0.15; None when the text is not a percentage.

    Raises `InputError` for a percentage outside 0 to 100.
    """
    if not text.strip().endswith("%"):
        return None
    share = _parse(text, {"%": 0.01}, what)
    if share > 1.0:
        raise InputError(f"{what}: {text!r} is outside 0% to 100%")
    return share


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """So many of something, for a person: `1 channel`, `1,089 channels`, `2 biases`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def format_percent(value: float) -> str:
    """A share for a person, to three digits, of which none is lost to zeros alone."""
    if 0 < abs(value) < 1e-5:
        return "under 0.001 %" if value > 0 else "above -0.001 %"
    if not value:
        return "0 %"
    size = abs(value)
    digits = 3 if size < 9.5e-5 else 2 if size < 0.0995 else 1 if size < 0.9995 else 0
    return f"{value * 100:.{digits}f} %"


def _scaled(value: float, steps: list[tuple[float, str]]) -> str:
    scale, unit = next(
        ((scale, unit) for scale, unit in steps if abs(value) >= scale),
        steps[-1],
    )
    return (
        f"{value / scale:.3g} {unit}"
        if abs(value / scale) < 999.5
        else f"{value / scale:,.0f} {unit}"
    )


def format_bytes(value: float) -> str:
    """Bytes for a person, in powers of 1024."""
    if abs(value) < 1024:
        return f"{value:.0f} B"
    return _scaled(value, [(2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB")])


def format_macs(value: float) -> str:
    """Multiply-accumulates for a person, in powers of 1000."""
    if abs(value) < 1000:
        return f"{value:.0f} MAC"
    return _scaled(value, [(1e9, "GMAC"), (1e6, "MMAC"), (1e3, "kMAC")])


def format_seconds(value: float) -> str:
    """Seconds for a person."""
    if abs(value) >= 120:
        return _scaled(value, [(3600.0, "h"), (60.0, "min")])
    return _scaled(value, [(1.0, "s"), (1e-3, "ms"), (1e-6, "us")])


def format_joules(value: float) -> str:
    """Joules for a person."""
    return _scaled(value, [(1e3, "kJ"), (1.0, "J"), (1e-3, "mJ"), (1e-6, "uJ")])


def format_hertz(value: float) -> str:
    """A frequency for a person."""
    return _scaled(value, [(1e9, "GHz"), (1e6, "MHz"), (1e3, "kHz"), (1.0, "Hz")])


def format_watts(value: float) -> str:
    """Power for a person."""
    return _scaled(value, [(1.0, "W"), (1e-3, "mW"), (1e-6, "uW")])


def format_bandwidth(value: float) -> str:
    """Bytes a second for a person, in powers of 1000 as vendors give them."""
    return _scaled(value, [(1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s"), (1.0, "B/s")])


def format_mac_rate(value: float) -> str:
    """Multiply-accumulates a second for a person."""
    return _scaled(value, [(1e9, "GMAC/s"), (1e6, "MMAC/s"), (1e3, "kMAC/s"), (1.0, "MAC/s")])
