"""Cores that a new device file may be scaled to, and how they compare.

One number a core, CoreMark a MHz, stands for how many plain instructions it gets done in a cycle.
The figures are those that Arm gives for its cores (those of Cortex-M7 and M4 also in Ibrahim, "ARM-
based Microcontroller Projects Using mbed", table 3.2). They say little about multiply-adds, so that
what is scaled by them is an estimate with a wide range until the board is calibrated.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Core:
    """A microcontroller's core: `coremark_per_mhz`, and its peak in MACs a cycle by format.

    A core whose peak in 32-bit floats is below one a cycle has no unit for them, or a slow one.
    """

    title: str
    coremark_per_mhz: float
    fp32_per_cycle: float
    int8_per_cycle: float
    arithmetic: str


_DSP = "single-precision FPU; SMLAD of the DSP extension"
_NO_FPU = "no floating-point unit: a multiply-add takes some {} cycles"
_HELIUM = "Helium, two beats of 32 bits a cycle; plain C uses little of it"

CORES: Mapping[str, Core] = {
    "cortex-m0+": Core("Cortex-M0+", 2.46, 0.02, 0.5, _NO_FPU.format(50)),
    "cortex-m3": Core("Cortex-M3", 3.34, 0.025, 1.0, _NO_FPU.format(40)),
    "cortex-m4": Core("Cortex-M4", 3.42, 1.0, 2.0, _DSP),
    "cortex-m33": Core("Cortex-M33", 4.02, 1.0, 2.0, _DSP),
    "cortex-m7": Core("Cortex-M7", 5.01, 1.0, 2.0, _DSP),
    "cortex-m55": Core("Cortex-M55", 4.2, 2.0, 8.0, _HELIUM),
}
