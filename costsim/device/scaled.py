"""A device file for a board of one's own, scaled from one that ships.

Sizes and clock are what a person says; everything else is the template's, scaled by clock and core,
and says so: every number is an estimate, with the template's range widened by how little a clock
and a core tell. Nothing of the template's own texts is left.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from costsim.base.errors import InputError, shown
from costsim.base.units import format_percent
from costsim.base.yaml_text import parse_yaml
from costsim.device.base import Part
from costsim.device.cores import CORES, Core
from costsim.device.files import parse_device, shipped_devices
from costsim.device.quantity import (
    Bytes,
    BytesPerSecond,
    MacsPerSecond,
    Quantity,
    Seconds,
    Watts,
)
from costsim.device.spec import DeviceSpec, Region
from costsim.device.target import ComputeTarget, Throughput
from costsim.ir.operators import WORK_KINDS

OTHER_CLOCK, OTHER_CORE = 1.3, 2.0
"""How much wider a range gets by another clock, and by another core."""

FOR_PROGRAM_RAM, FOR_PROGRAM_FLASH = 0.10, 0.15
"""Shares that stack, buffers and firmware are taken to need."""

UNITS: Mapping[type[Quantity], str] = {
    BytesPerSecond: "MB/s",
    MacsPerSecond: "MMAC/s",
    Seconds: "us",
    Watts: "mW",
}
"""In which rates are written, so that a person can read them."""

CLOCKS_HZ = 10**3, 10**11
SIZES_BYTES = 2**11, 2**40
"""Of any microcontroller, with room on either side."""

RECOMMENDED = 0.8
"""Of the RAM that training may have: what is recommended where nobody measured."""


@dataclass(frozen=True)
class NewBoard:
    """What a person says of a board; None is the template's."""

    name: str
    core: str | None
    clock_hz: float | None
    ram_bytes: int | None
    flash_bytes: int | None


def device_like(template: DeviceSpec, board: NewBoard) -> str:
    """The text of a device file for `board`, scaled from `template`.

    It is read again before it is handed out, so that it is valid. Raises `InputError` for a name
    that no device may have, an unknown core, and for sizes of a template that is no
    microcontroller, whose memories are more than a size.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", board.name):
        raise InputError(
            f"--new: {shown(board.name)}: small letters, digits, '.', '_' and '-' are allowed"
        )
    if not template.is_microcontroller:
        raise InputError(
            f"--like {template.name}: runs a system of its own; give a microcontroller, or copy "
            f"the file (costsim devices {template.name} --json) and change its numbers"
        )
    if board.name in shipped_devices():
        raise InputError(f"--new: {board.name} is the name of a shipped device; give another")
    for option, given, (least, most), unit in (
        ("--clock", board.clock_hz, CLOCKS_HZ, "Hz"),
        ("--ram", board.ram_bytes, SIZES_BYTES, "bytes"),
        ("--flash", board.flash_bytes, SIZES_BYTES, "bytes"),
    ):
        if given is not None and not least <= given <= most:
            allowed = f"{least:,} to {most:,} {unit}"
            raise InputError(f"{option}: is {given:,.6g} {unit}; allowed is {allowed}")
    core = _core(board.core, template)
    text = "\n".join((*_head(template, board, core), *_target(template, board, core), ""))
    parse_device(text, f"the file for {board.name}")
    return text


def _core(name: str | None, template: DeviceSpec) -> Core:
    if name is None:
        return core_of(template)
    if name not in CORES:
        raise InputError(f"--core: {shown(name)} is unknown; known are {', '.join(CORES)}")
    return CORES[name]


def core_of(template: DeviceSpec) -> Core:
    """The core that a device's own title names; raises `InputError` where it names none."""
    title = template.target().title
    # The longest name first: Cortex-M3 begins Cortex-M33.
    for core in sorted(CORES.values(), key=lambda one: -len(one.title)):
        if core.title in title:
            return core
    raise InputError(
        f"--like {template.name}: nobody said how its core compares to others; take a device with "
        f"one of {', '.join(CORES)}"
    )


def _head(template: DeviceSpec, board: NewBoard, core: Core) -> Iterator[str]:
    ram, flash = template.region("ram"), template.region("flash")
    assert ram is not None
    assert flash is not None
    sizes = {
        "ram": ram.size_bytes if board.ram_bytes is None else board.ram_bytes,
        "flash": flash.size_bytes if board.flash_bytes is None else board.flash_bytes,
    }
    budget = int(RECOMMENDED * (1 - FOR_PROGRAM_RAM) * sizes["ram"]) // 1024 * 1024
    bits = template.bits
    yield f"# {board.name}, scaled from {template.name} by costsim devices --new: a start."
    yield "# Every number is an estimate with the range that one deserves. Replace what you know by"
    yield '#   {value: 768KiB, provenance: datasheet, source: "where it says so"}'
    yield "# memory and clock first; the rates are what costsim calibrate measures on the board."
    yield f"name: {_text(board.name)}"
    yield f"title: {board.name} ({core.title}, {_hertz(template, board) / 1e6:g} MHz)"
    yield "description: >-"
    yield f"  Microcontroller with a {core.title}; weights that stay the same are read from flash."
    yield ""
    yield "memory:"
    yield "  # RAM as one run of addresses. Several banks: one entry each, with its address; those"
    yield "  # whose addresses touch are one. Without an address the board cannot be emulated."
    for kind, share, why, holds in (
        ("ram", FOR_PROGRAM_RAM, "stack, vectors and buffers of a small firmware",
         "activations, gradients, optimizer state, updated weights"),
        ("flash", FOR_PROGRAM_FLASH, "firmware and kernels", "frozen weights, code"),
    ):  # fmt: skip
        given = getattr(board, f"{kind}_bytes") is not None
        source = "as given to costsim devices --new" if given else _as_in(template, kind)
        yield f"  {kind}:"
        yield f"    kind: {kind}"
        yield f'    size: {{value: {_size(sizes[kind])}, provenance: estimate, source: "{source}"}}'
        yield (
            f"    available: {{value: {_share(1 - share)}, provenance: estimate, "
            f'source: "a guess at {why}"}}'
        )
        yield f"    holds: {holds}"
    yield ""
    yield "placement: {frozen_weights: flash, updated_weights: ram, support_images: flash}"
    yield ""
    yield "bits:"
    for name in ("weights", "activations", "gradients"):
        yield f"  {name}: {list(getattr(bits, name))}"
    yield f'  source: "kernels of costsim export, in C; {core.title}: {core.arithmetic}"'
    yield ""
    yield "training_budget:"
    yield (
        f"  memory: {{value: {_size(budget)}, provenance: estimate, "
        f'source: "{format_percent(RECOMMENDED)} of the RAM that training may have"}}'
    )
    yield f"  accounting: {template.training_budget.accounting}"
    yield (
        f"  macs_share: {{value: {_share(template.training_budget.macs_share.value)}, provenance: "
        'estimate, source: "TinyTrain (ICML 2024): about 15 % of the backward MACs"}'
    )
    yield ""
    yield "default_target: cpu"


def _text(name: str) -> str:
    """A name as YAML reads it back: `123`, `true` and `no` are texts only in quotes."""
    return name if parse_yaml(name, "name") == name else f'"{name}"'


def banks_left_out(template: DeviceSpec, board: NewBoard) -> Iterator[str]:
    """What is taken of memories in several banks whose size nobody gave: the largest."""
    for kind, given in (("ram", board.ram_bytes), ("flash", board.flash_bytes)):
        largest = template.region(kind)
        if given is None and largest is not None and len(_banks(template, kind)) > 1:
            yield f"--{kind}: {_size(largest.size_bytes)} is taken, {_as_in(template, kind)}"


def _banks(template: DeviceSpec, kind: str) -> list[Region]:
    return [region for region in template.memory.values() if region.kind == kind]


def _as_in(template: DeviceSpec, kind: str) -> str:
    """Where a size is from that nobody gave."""
    if (count := len(_banks(template, kind))) == 1:
        return f"as {template.name} has it"
    return f"the largest of the {count} banks of {kind} that {template.name} has"


def _hertz(template: DeviceSpec, board: NewBoard) -> float:
    return template.target().clock.value if board.clock_hz is None else board.clock_hz


def _target(template: DeviceSpec, board: NewBoard, core: Core) -> Iterator[str]:
    target, own = template.target(), core_of(template)
    hertz = _hertz(template, board)
    by_clock = hertz / target.clock.value
    by_core = core.coremark_per_mhz / own.coremark_per_mhz
    if core.fp32_per_cycle < 1:
        by_core = core.fp32_per_cycle * 2  # soft floats: loads and loop come beside
    wider = (OTHER_CLOCK if by_clock != 1 else 1.0) * (OTHER_CORE if core != own else 1.0)
    told = f"{template.name} x {by_clock:.3g} (clock)"
    rate = _Scale(by_clock * by_core, wider, f"{told} x {by_core:.3g} (core)")
    bus = _Scale(by_clock, wider, told)
    wait = _Scale(1 / (by_clock * by_core), wider, f"{template.name} / {by_clock * by_core:.3g}")
    power = _Scale(by_clock, max(wider, OTHER_CORE), f"{told}; a guess until it is measured")
    peaks = {"fp32": core.fp32_per_cycle * hertz, "int8": core.int8_per_cycle * hertz}
    given = "as given to costsim devices --new" if board.clock_hz else f"as {template.name} has it"
    yield "targets:"
    yield "  cpu:"
    yield f"    title: {core.title}, plain C kernels"
    yield f'    clock: {{value: {hertz / 1e6:.9g}MHz, provenance: estimate, source: "{given}"}}'
    yield '    threads: {value: 1, provenance: estimate, source: "one core trains"}'
    yield "    peak:"
    for name, peak in peaks.items():
        yield (
            f"      {name}: {{value: {peak / 1e6:.9g}MMAC/s, provenance: estimate, "
            f'source: "{core.arithmetic}"}}'
        )
    yield f"    bandwidth: {bus.of(target.bandwidth)}"
    yield f"    overhead: {wait.of(target.overhead)}"
    yield "    throughput:"
    yield from _rates(target.throughput, rate, bus, peaks["fp32"], target)
    if target.throughput_int8 is not None and core.fp32_per_cycle >= 1:
        yield "    throughput_int8:"
        yield from _rates(target.throughput_int8, rate, bus, peaks["int8"], target)
    elif target.throughput_int8 is not None:
        yield f"    # Steps in 8 bits are priced as in 32: what {template.name} runs them by"
        yield "    # takes the DSP extension, and an FPU for gradients."
    yield "    power:"
    for state in ("compute", "memory", "idle"):
        yield f"      {state}: {power.of(getattr(target.power, state))}"


def _rates(
    table: Throughput, rate: "_Scale", bus: "_Scale", peak: float, target: ComputeTarget
) -> Iterator[str]:
    most_bytes = target.bandwidth.value * bus.factor
    for kind in WORK_KINDS:
        rates: Part = getattr(table, kind)
        yield f"      {kind}:"
        for direction in type(rates).model_fields:
            limit = most_bytes if kind == "elementwise" else peak
            yield f"        {direction}: {rate.of(getattr(rates, direction), limit)}"


@dataclass(frozen=True)
class _Scale:
    """A number of the template times `factor`, its range `wider`, and why."""

    factor: float
    wider: float
    why: str

    def of(self, number: Quantity, most: float = float("inf")) -> str:
        """As a flow mapping, never more than `most`."""
        interval = number.interval
        value = min(interval.value * self.factor, most)
        low = min(interval.low * self.factor / self.wider, value)
        high = max(interval.high * self.factor * self.wider, value)
        unit = UNITS[type(number)]
        ends = (f"{end / number.scales[unit]:.4g}{unit}" for end in (value, low, high))
        told = ", ".join(map(": ".join, zip(("value", "low", "high"), ends, strict=True)))
        return f'{{{told}, provenance: estimate, source: "{self.why}"}}'


def _share(share: float) -> str:
    """As a device file has it."""
    return f"{100 * share:g}%"


def _size(number: int) -> str:
    """As a person writes it, exactly."""
    for unit in ("MiB", "KiB"):
        if number % int(Bytes.scales[unit]) == 0:
            return f"{number // int(Bytes.scales[unit])}{unit}"
    return f"{number}B"
