"""The price of an adaptation: bytes by phase, MACs by cause, seconds and joules of the whole."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, TypeAlias

from costsim.base.errors import InputError
from costsim.device import ComputeTarget, DeviceSpec, Interval
from costsim.ir.program import Category, TrainingProgram, memory_timeline
from costsim.ir.program.adaptation import AdaptationProgram, Phase, PhaseProgram, Place
from costsim.pricing.choosing import scoring_seconds
from costsim.pricing.cost import MacCost, mac_cost, step_seconds
from costsim.pricing.forward_parts import ForwardPart, forward_parts

Parts: TypeAlias = Mapping[str, tuple[ForwardPart, ForwardPart]]
"""By cut, what the parts of a forward pass before and behind it take."""

_ZERO = Interval.exactly(0.0)


@dataclass(frozen=True, slots=True)
class PhaseCost:
    """What all runs of one phase cost.

    `peak_bytes`: the most bytes of RAM live at once, with what outlives runs. `compute_s` is
    computing, `storage_s` waiting for flash or a card, `swap_s` what swapping adds; None where the
    phase does not fit on the device at all.
    """

    phase: Phase
    times: int
    peak_bytes: int
    macs: MacCost
    compute_s: Interval
    storage_s: Interval
    swap_s: Interval | None

    @property
    def latency_s(self) -> Interval | None:
        """All of it."""
        return None if self.swap_s is None else self.compute_s + self.storage_s + self.swap_s

    def to_json(self) -> dict[str, Any]:
        """As one JSON object."""
        return {
            "phase": str(self.phase),
            "times": self.times,
            "peak_bytes": self.peak_bytes,
            "macs": self.macs.to_json(),
            "compute_s": self.compute_s.to_json(),
            "storage_s": self.storage_s.to_json(),
            "swap_s": None if self.swap_s is None else self.swap_s.to_json(),
        }


@dataclass(frozen=True)
class AdaptationCost:
    """Everything one adaptation costs on a device.

    `stored_bytes` are the most bytes that lie in flash or storage at once, frozen weights apart.
    `energy_j` is None where a phase does not fit.
    """

    phases: tuple[PhaseCost, ...]
    stored_bytes: Mapping[Place, int]
    energy_j: Interval | None

    @property
    def peak(self) -> PhaseCost:
        """The phase that holds most."""
        return max(self.phases, key=lambda phase: phase.peak_bytes)

    @property
    def peak_bytes(self) -> int:
        """The most bytes of RAM live at any moment; frozen weights stand apart."""
        return self.peak.peak_bytes

    @property
    def latency_s(self) -> Interval | None:
        """The whole; None where a phase does not fit."""
        found = [phase.latency_s for phase in self.phases]
        known = [one for one in found if one is not None]
        return reduce(add, known, _ZERO) if len(known) == len(found) else None

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all phases."""
        return sum(phase.macs.total for phase in self.phases)

    @property
    def usage(self) -> Mapping[str, float | None]:
        """What it takes of each limit of a budget of the whole; None where it does not fit."""
        return {
            "latency_s": None if self.latency_s is None else self.latency_s.value,
            "energy_j": None if self.energy_j is None else self.energy_j.value,
            "macs": self.macs,
            "storage_bytes": self.stored_bytes.get("storage", 0),
        }

    def of(self, phase: Phase) -> PhaseCost | None:
        """What a phase costs; None if there is none."""
        return next((one for one in self.phases if one.phase is phase), None)

    def seconds(self, phase: Phase) -> Interval:
        """Those of a phase, swapping apart; none where it is not there."""
        found = self.of(phase)
        return _ZERO if found is None else found.compute_s + found.storage_s

    def to_json(self) -> dict[str, Any]:
        """The `adaptation` of a plan's predicted costs."""
        latency = self.latency_s
        return {
            "peak_bytes": self.peak_bytes,
            "peak_phase": str(self.peak.phase),
            "stored_bytes": dict(self.stored_bytes),
            "macs": self.macs,
            "latency_s": None if latency is None else latency.to_json(),
            "energy_j": None if self.energy_j is None else self.energy_j.to_json(),
            "phases": [phase.to_json() for phase in self.phases],
        }


@dataclass(frozen=True, slots=True)
class Reading:
    """What one run of a program costs on a target, in so many rounds."""

    compute_s: Interval
    macs: MacCost
    peak_bytes: int


class Readings:
    """Readings of programs, each read once: ways of adapting share most of their programs."""

    def __init__(self) -> None:
        self._read: dict[tuple[int, int, int], tuple[TrainingProgram, ComputeTarget, Reading]] = {}
        self._parts: dict[tuple[int, int], tuple[TrainingProgram, ComputeTarget, Parts]] = {}

    def of(self, phase: PhaseProgram, target: ComputeTarget) -> Reading:
        """The reading of a phase's program; what it is of is kept, so that it stays itself."""
        program, rounds = phase.program, phase.rounds
        key = id(program), id(target), rounds
        if key not in self._read:
            if phase.phase is Phase.SCORING:
                once = scoring_seconds(program, target, rounds)
            else:
                once = step_seconds(program, target)
            found = Reading(once, mac_cost(program), memory_timeline(program).peak_bytes)
            self._read[key] = program, target, found
        return self._read[key][2]

    def parts(self, program: TrainingProgram, target: ComputeTarget) -> Parts:
        """At least what the parts of a forward pass take; see `forward_parts`."""
        key = id(program), id(target)
        if key not in self._parts:
            self._parts[key] = program, target, forward_parts(program, target)
        return self._parts[key][2]


def price_adaptation(
    program: AdaptationProgram,
    device: DeviceSpec,
    target: str | None = None,
    readings: Readings | None = None,
) -> AdaptationCost:
    """Read every cost of an adaptation on a `device`; what is in `readings` is not read again.

    Raises `InputError` for a target the device lacks, and for a place that it lacks or does not
    say how fast it is.
    """
    chosen = device.target(target)
    read = readings or Readings()
    phases = tuple(_phase(program, one, device, read.of(one, chosen)) for one in program.phases)
    swaps = [phase.swap_s for phase in phases]
    energy = None
    if all(swap is not None for swap in swaps):
        waiting = reduce(add, (p.storage_s + (p.swap_s or _ZERO) for p in phases), _ZERO)
        energy = chosen.joules(reduce(add, (p.compute_s for p in phases), _ZERO), waiting)
    places: tuple[Place, ...] = ("flash", "storage")
    stored = {place: size for place in places if (size := program.stored_bytes(place))}
    return AdaptationCost(phases, stored, energy)


def _phase(
    program: AdaptationProgram, phase: PhaseProgram, device: DeviceSpec, reading: Reading
) -> PhaseCost:
    storage = _ZERO
    for moved, direction in ((phase.read_bytes, "read"), (phase.written_bytes, "write")):
        for place, size in moved.items():
            storage = storage + transfer_seconds(device, place, size, direction)
    peak = reading.peak_bytes + program.lasting_bytes(phase.phase)
    weights = program.weight_bytes
    if device.placement.frozen_weights == "ram":
        trained = phase.program.bytes_of(Category.UPDATED_WEIGHTS)  # among the peak already
        ram, flash = peak + weights - trained, 0
    else:
        ram, flash = peak, weights
    swap = None
    if (
        flash + program.lasting_bytes(phase.phase, "flash") <= device.flash_bytes
        and program.lasting_bytes(phase.phase, "storage") <= device.storage_bytes
    ):
        swap = device.swap_seconds(
            ram, device.largest_block_bytes, passes=phase.program.step.passes
        )
    return PhaseCost(
        phase.phase,
        phase.times,
        peak,
        reading.macs * (phase.times * phase.rounds),
        reading.compute_s * phase.times,
        storage,
        None if swap is None else swap * phase.times,
    )


def transfer_seconds(device: DeviceSpec, place: Place, size_bytes: int, direction: str) -> Interval:
    """Seconds to read so many bytes from flash or storage, or to write them there.

    Flash whose rate is not given is read as memory is, by the operation that needs what is in it.
    Raises `InputError` where the device has no such memory, or does not say how fast it is.
    """
    region = device.region(place)
    if region is None:
        raise InputError(f"{device.name}: has no memory of kind {place}")
    rate = region.read_bandwidth if direction == "read" else region.write_bandwidth
    if rate is None:
        if place == "flash" and direction == "read":
            return _ZERO
        raise InputError(
            f"{device.name}: memory of kind {place} has no {direction}_bandwidth, so that nothing "
            "says how long it takes"
        )
    found = rate.interval
    return Interval(size_bytes / found.value, size_bytes / found.high, size_bytes / found.low)
