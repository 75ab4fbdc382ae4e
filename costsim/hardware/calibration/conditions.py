"""What a calibration is taken under, as far as the system tells."""

from pathlib import Path

from costsim.device.calibration import Conditions
from costsim.hardware.meters.conditions import Snapshot
from costsim.hardware.results.machine import describe_machine, describe_versions


def describe_conditions(threads: int) -> Conditions:
    """This machine now, with the `threads` that PyTorch computes on."""
    machine, now = describe_machine(threads), Snapshot.now()
    return Conditions(
        cpu=machine.cpu,
        cores=machine.cores,
        threads=threads,
        memory_bytes=machine.memory_bytes,
        system=machine.system,
        versions=describe_versions(),
        governor=now.governor,
        clock_hz=now.clock_hz or _clock_hz(Path("/proc/cpuinfo")),
        temperature_c=now.temperature_c,
        load=now.load,
    )


def _clock_hz(listed: Path) -> float | None:
    """Of the first processor, in MHz there; a virtual machine tells it nowhere else."""
    if not listed.is_file():
        return None
    for line in listed.read_text(errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "cpu MHz":
            return float(value) * 1e6
    return None
