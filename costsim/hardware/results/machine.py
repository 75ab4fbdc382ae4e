"""What a measurement was taken on."""

import os
import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path

from costsim import __version__
from costsim.hardware.results.record import Machine


def describe_machine(threads: int) -> Machine:
    """This machine, with the `threads` that PyTorch computes on."""
    return Machine(
        cpu=_cpu(),
        cores=os.cpu_count() or 1,
        threads=threads,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
    )


def describe_versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    return {
        "costsim": __version__,
        "python": platform.python_version(),
        "torch": version("torch"),
        "numpy": version("numpy"),
    }


@cache
def _cpu() -> str:
    listed = Path("/proc/cpuinfo")
    if listed.is_file():
        fields = {
            name.strip(): value.strip()
            for line in listed.read_text(errors="replace").split("\n\n")[0].splitlines()
            for name, colon, value in [line.partition(":")]
            if colon
        }
        # A model name alone may stand for several generations ("AMD EPYC").
        parts = [fields.get("model name"), fields.get("cpu family"), fields.get("model")]
        if parts[0]:
            return " ".join(part for part in parts if part)
    return platform.processor() or platform.machine()
