"""Readings of probes on a made-up device whose laws are known, for the tests of calibration."""

import random
from collections.abc import Callable, Sequence
from typing import Any

from costsim.device.calibration import Conditions
from costsim.hardware.calibration.fit import family
from costsim.hardware.calibration.probes import YARDSTICK, Probe, parse_probe
from costsim.pricing.cost import operation_work

CONDITIONS = Conditions(
    cpu="a made-up processor",
    cores=4,
    threads=1,
    memory_bytes=2**33,
    system="Linux",
    versions={"costsim": "0", "torch": "0"},
)


def true_law(kernel: str) -> tuple[float, float, float]:
    """Seconds of overhead, a MAC and a byte: always the same, alike for kernels of a family."""
    family_of, own = random.Random(family(kernel)), random.Random(kernel)
    return (
        family_of.uniform(5e-6, 80e-6) * own.uniform(0.8, 1.25),
        family_of.uniform(1e-11, 1e-10) * own.uniform(0.8, 1.25),
        family_of.uniform(5e-11, 4e-10) * own.uniform(0.8, 1.25),
    )


def true_seconds(probe: Probe) -> list[float]:
    """What each operation of a probe takes on the device."""
    program = probe.program()
    found = []
    for operation in program.operations:
        _, _, macs, moved, kernel = operation_work(program, operation)
        overhead, a_mac, a_byte = true_law(kernel)
        found.append(overhead + a_mac * macs + a_byte * moved)
    return found


def device(
    noise: float = 0.0, common: float = 0.0, own: float = 0.0, seed: int = 0
) -> Callable[[Sequence[str], float], dict[str, Any]]:
    """A runner of probes: every reading off by `noise`, every probe by `common`, and every
    operation by `own`, all relative standard deviations; the last two the same in every reading.
    """

    def run(names: Sequence[str], seconds_each: float) -> dict[str, Any]:
        usual = sum(true_seconds(YARDSTICK))
        probes: list[dict[str, Any]] = []
        for name in names:
            fixed = random.Random(f"{seed} {name}")
            rng = random.Random(f"{seed} {name} {seconds_each} {len(probes)}")
            whole = fixed.lognormvariate(0, common)
            true = [
                whole * s * fixed.lognormvariate(0, own) for s in true_seconds(parse_probe(name))
            ]

            def readings(seconds: float, rng: random.Random = rng) -> int:
                return round(1e9 * seconds * rng.lognormvariate(0, noise))

            probes.append(
                {
                    "name": name,
                    "steps": [readings(sum(true)) for _ in range(5)],
                    "yardstick": [readings(usual) for _ in range(5)],
                    "operations": [[readings(s) for s in true] for _ in range(5)],
                }
            )
        return {"conditions": CONDITIONS.model_dump(mode="json"), "probes": probes}

    return run
