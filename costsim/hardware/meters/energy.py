"""Joules from counters that a machine has: RAPL, INA3221, and plug-ins.

Two sorts of counter: one that counts energy (`joules`), to be read before and after, and one that
shows the power of the moment (`watts`), to be read often and summed over time. A plug-in is an
entry point of the group `costsim.energy_counters`: a function without arguments that returns the
counters it finds, each with a `name` and one of the two.
"""

import math
import re
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from numbers import Real
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeAlias, runtime_checkable

from costsim.base.errors import one_line, shown

PLUGINS = "costsim.energy_counters"
SAMPLE_S = 0.02
"""Between two readings of a power meter; an INA3221 converts all channels in about that time."""

_RAPL = "sys/class/powercap"
_INA_HWMON = "sys/class/hwmon"
_INA_IIO = "sys/bus/i2c/drivers/ina3221x"


@runtime_checkable
class EnergyCounter(Protocol):
    """Counts joules. It starts again from 0 after `range_j` (None: it never does)."""

    @property
    def name(self) -> str:
        """What it counts, for a person."""

    @property
    def range_j(self) -> float | None:
        """Joules after which it starts again."""

    def joules(self) -> float:
        """What it has counted so far."""


@runtime_checkable
class PowerMeter(Protocol):
    """Shows watts."""

    @property
    def name(self) -> str:
        """What it shows, for a person."""

    def watts(self) -> float:
        """The power of the moment."""


Counter: TypeAlias = EnergyCounter | PowerMeter


@dataclass(frozen=True)
class RaplDomain:
    """One zone of Linux's powercap tree (Documentation/power/powercap/powercap.rst)."""

    name: str
    folder: Path
    range_j: float | None

    def joules(self) -> float:
        """`energy_uj`."""
        return int((self.folder / "energy_uj").read_text()) * 1e-6


@dataclass(frozen=True)
class Ina3221Rail:
    """One channel of an INA3221: `power` in mW, or volts in mV times amperes in mA."""

    name: str
    files: tuple[Path, ...]

    def watts(self) -> float:
        """The power of the rail."""
        values = [int(file.read_text()) * 1e-3 for file in self.files]
        return values[0] if len(values) == 1 else values[0] * values[1]


@dataclass(frozen=True)
class Found:
    """The counters of a machine by instrument, and what a person should know about them."""

    by_source: tuple[tuple[str, Counter], ...]
    notes: tuple[str, ...]

    @property
    def counters(self) -> tuple[Counter, ...]:
        """All of them."""
        return tuple(counter for _, counter in self.by_source)


def find_counters(root: Path = Path("/")) -> Found:
    """All counters of this machine that can be read; `root` stands for `/` in tests."""
    counters: list[tuple[str, Counter]] = []
    notes: list[str] = []
    sources: list[tuple[str, Iterable[Counter]]] = [
        ("RAPL", _rapl(root / _RAPL)),
        ("INA3221", _ina_hwmon(root / _INA_HWMON)),
        ("INA3221", _ina_iio(root / _INA_IIO)),
        *_plugins(notes),
    ]
    for name, found in sources:
        for counter in found:
            try:
                _read(counter)
            except Exception as error:  # a plug-in's raises what it likes
                notes.append(f"the {name} counter {counter.name} cannot be read: {_why(error)}")
            else:
                counters.append((name, counter))
    if not counters:
        notes.append("this machine has no energy counter that can be read: no joules were measured")
    return Found(tuple(counters), tuple(notes))


def _read(counter: Counter) -> float:
    value = counter.joules() if isinstance(counter, EnergyCounter) else counter.watts()
    if not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"it says {shown(value)}, which is no amount")
    return float(value)


def _why(error: Exception) -> str:
    """What went wrong, a plug-in's own kinds of error by name."""
    if isinstance(error, OSError | ValueError):
        return one_line(getattr(error, "strerror", None) or str(error))
    return one_line(f"{type(error).__name__}: {error}")


def _rapl(folder: Path) -> Iterator[RaplDomain]:
    """Packages, and the memory beside them; what is inside a package is counted with it."""
    for zone in sorted(folder.glob("*-rapl:*")):
        name = _text(zone / "name")
        package = re.fullmatch(r"[a-z-]+-rapl:\d+", zone.name)
        if name and ((package and name.startswith("package")) or name == "dram"):
            number = zone.name.split(":")[1]
            label = f"RAPL {name}" if package else f"RAPL {name}-{number}"
            limit = _text(zone / "max_energy_range_uj")
            yield RaplDomain(label, zone, int(limit) * 1e-6 if limit.isdigit() else None)


def _ina_hwmon(folder: Path) -> Iterator[Ina3221Rail]:
    """As the kernel's own driver shows it (JetPack 5 and later)."""
    for chip in sorted(folder.glob("hwmon*")):
        if _text(chip / "name") == "ina3221":
            yield from _whole(
                Ina3221Rail(
                    f"INA3221 {_text(label)}",
                    tuple(chip / f"{what}{_number(label)}_input" for what in ("in", "curr")),
                )
                for label in sorted(chip.glob("in[123]_label"))
            )


def _ina_iio(folder: Path) -> Iterator[Ina3221Rail]:
    """As NVIDIA's older driver shows it (JetPack 4, Jetson Nano)."""
    for chip in sorted(folder.glob("*/iio:device*")):
        yield from _whole(
            Ina3221Rail(f"INA3221 {_text(label)}", (chip / f"in_power{label.name[-1]}_input",))
            for label in sorted(chip.glob("rail_name_[012]"))
        )


def _whole(rails: Iterable[Ina3221Rail]) -> Iterator[Ina3221Rail]:
    """The rail that feeds the board, where there is one: the others are behind it."""
    known = [rail for rail in rails if not rail.name.endswith(" NC")]
    inputs = [rail for rail in known if rail.name.endswith("_IN")]
    yield from inputs or known


def _number(label: Path) -> str:
    return "".join(re.findall(r"\d", label.name))


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _plugins(notes: list[str]) -> Iterator[tuple[str, Sequence[Counter]]]:
    """The counters of each plug-in; one that fails is noted and left out."""
    for plugin in entry_points(group=PLUGINS):
        try:
            found = list(plugin.load()())
            wrong = [one for one in found if not isinstance(one, EnergyCounter | PowerMeter)]
        except Exception as error:  # foreign code: whatever it raises is its own fault
            told = one_line(f"{type(error).__name__}: {error}")
            notes.append(f"the energy plug-in {plugin.name!r} failed: {told}")
            continue
        if wrong:
            notes.append(
                f"the energy plug-in {plugin.name!r} gave a {type(wrong[0]).__name__}, which has "
                "neither joules() nor watts()"
            )
        yield plugin.name, [one for one in found if one not in wrong]


class EnergyRecorder:
    """Joules of each counter between entering and leaving; reads often enough to miss nothing.

    A power meter is summed by the trapezoidal rule over its readings; an energy counter is read
    as often, so that it cannot start again from 0 twice unnoticed. A reading that fails is made up
    for by the next; where there is no next one, or a counter started anew, `doubts` says of it why
    its joules are not all.
    """

    def __init__(self, counters: Sequence[Counter], sample_s: float = SAMPLE_S) -> None:
        self.counters = tuple(counters)
        self.sample_s = sample_s
        self.joules = [0.0] * len(self.counters)
        self.seconds = 0.0
        self.doubts: list[str | None] = [None] * len(self.counters)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._last: list[tuple[float, float] | None] = [None] * len(self.counters)
        self._failed: list[str | None] = [None] * len(self.counters)

    def __enter__(self) -> Self:
        self._add()
        self.doubts = list(self._failed)
        self._started = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        self._add()
        for position, joules in enumerate(self.joules):
            doubt = "counted less than nothing" if joules < 0 else None
            self.doubts[position] = self.doubts[position] or self._failed[position] or doubt
        self.seconds = time.perf_counter() - self._started

    def _sample(self) -> None:
        while not self._over.wait(self.sample_s):
            self._add()

    def _now(self, counter: Counter) -> tuple[float, float]:
        return time.perf_counter(), _read(counter)

    def _add(self) -> None:
        for position, counter in enumerate(self.counters):
            last = self._last[position]
            try:
                now, value = self._now(counter)
            except Exception as error:  # busy for a moment: the next reading spans it
                self._failed[position] = f"cannot be read: {_why(error)}"
                continue
            self._failed[position] = None
            self._last[position] = now, value
            if last is None:
                continue
            then, before = last
            if isinstance(counter, EnergyCounter):
                gained = value - before
                if gained < 0:
                    gained += counter.range_j or 0.0
                if gained < 0:
                    self.doubts[position] = "started again from 0"
                self.joules[position] += max(0.0, gained)
            else:
                self.joules[position] += (now - then) * (before + value) / 2
