"""What a calibration is taken under, as far as the system tells."""

import os
from pathlib import Path

from costsim.device.calibration import Conditions
from costsim.measurement.machine import describe_machine, describe_versions


def describe_conditions(threads: int) -> Conditions:
    """This machine now, with the `threads` that PyTorch computes on."""
    machine = describe_machine(threads)
    return Conditions(
        cpu=machine.cpu,
        cores=machine.cores,
        threads=threads,
        memory_bytes=machine.memory_bytes,
        system=machine.system,
        versions=describe_versions(),
        governor=_text(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        clock_hz=_clock_hz(),
        temperature_c=_temperature_c(),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    )


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except OSError:
        return None


def _clock_hz() -> float | None:
    """Of the first processor, from cpufreq (kHz) or /proc/cpuinfo (MHz)."""
    khz = _text(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq"))
    if khz is not None and khz.isdigit():
        return float(khz) * 1e3
    for line in (_text(Path("/proc/cpuinfo")) or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "cpu MHz":
            return float(value) * 1e6
    return None


def _temperature_c() -> float | None:
    """The hottest thermal zone."""
    found = []
    for zone in Path("/sys/class/thermal").glob("thermal_zone*/temp"):
        text = _text(zone)
        if text is not None and text.lstrip("-").isdigit():
            found.append(float(text) / 1e3)
    return max(found, default=None)
