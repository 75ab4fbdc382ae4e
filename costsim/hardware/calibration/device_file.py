"""A calibration written into a device spec, and a first spec of the machine this runs on."""

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from costsim.base.files import write_atomically
from costsim.device import Calibration, DeviceSpec
from costsim.device.calibration import Conditions
from costsim.device.target import ELEMENTWISE_RATE, ByteRates, MacRates
from costsim.hardware.calibration.fit import KernelSample

HEADER = """\
# Calibrated by costsim: numbers of provenance `calibrated`, and the laws under `calibration`, were
# measured under the conditions named there. Samples are `MACs bytes seconds`, medians of each.
"""


def calibrated_spec(
    base: DeviceSpec, target: str, calibration: Calibration, samples: list[KernelSample]
) -> DeviceSpec:
    """`base` with what was measured on `target` in place of what was believed of it.

    The laws go into `calibration`. The plain rates, which price kernels that were not measured,
    are those of everything measured of a kind and direction together, with the middle nine tenths
    of single operations as their range, and never less than `UNSEEN` times either way; what was not
    measured at all stays as it was.
    """
    document = base.to_json()
    place: dict[str, Any] = document["targets"][target]
    source = (
        f"costsim calibrate, {calibration.taken}: {calibration.probes} probes on "
        f"{calibration.conditions.threads} threads of {calibration.conditions.cpu}"
    )

    def number(value: float, low: float, high: float) -> dict[str, Any]:
        low, high = min(low, value), max(high, value)
        return {
            "value": value,
            "low": low,
            "high": high,
            "provenance": "calibrated",
            "source": source,
        }

    def wide(value: float, low: float, high: float) -> dict[str, Any]:
        return number(value, min(low, value / UNSEEN), max(high, value * UNSEEN))

    overheads = [law.overhead_s for law in calibration.kernels.values() if law.overhead_s > 0]
    if overheads:
        low, middle, high = np.quantile(overheads, (0.05, 0.5, 0.95))
        place["overhead"] = number(float(middle), float(low), float(high))
    overhead = place["overhead"]["value"]
    macs, moved = _amounts(samples)
    fastest = 0.0
    for (kind, direction), found in macs.items():
        value, low, high = _rate(found, overhead)
        place["throughput"][kind][direction] = wide(value, low, high)
        fastest = max(fastest, value)
    widest, beyond = 0.0, 0.0
    for direction, found in moved.items():
        value, low, high = _rate(found, overhead)
        place["throughput"]["elementwise"][direction] = wide(value, low, high)
        widest, beyond = max(widest, value), max(beyond, high)
    if fastest > place["peak"]["fp32"]["value"]:
        place["peak"]["fp32"] = number(fastest, fastest, fastest)
    if widest > place["bandwidth"]["value"]:
        place["bandwidth"] = number(widest, widest, beyond)
    threads = float(calibration.conditions.threads)
    place["threads"] = number(threads, threads, threads)
    if (clock := calibration.conditions.clock_hz) is not None:
        place["clock"] = number(clock, clock, clock)
    place["calibration"] = calibration.model_dump(mode="json", exclude_none=True)
    return DeviceSpec.from_json(document, "the calibrated device")


UNSEEN = 2.0
"""How far off the rate of a kind and direction may be, either way, for a kernel never measured."""

ENOUGH = 3
"""Operations that are mostly work, from which on the others say nothing about a rate."""

Amounts = dict[Any, list[tuple[float, float]]]


def _amounts(samples: list[KernelSample]) -> tuple[Amounts, Amounts]:
    """(MACs, seconds) by kind and direction, and (bytes, seconds) by byte rate."""
    macs: Amounts = defaultdict(list)
    moved: Amounts = defaultdict(list)
    for sample in samples:
        if sample.work_kind != "elementwise" and sample.direction in MacRates.model_fields:
            if sample.macs:
                macs[sample.work_kind, sample.direction].append((sample.macs, sample.seconds))
        elif (
            sample.moved_bytes and sample.direction != "loss"
        ):  # mostly Python, and always measured
            rate = ELEMENTWISE_RATE[sample.direction]
            assert rate in ByteRates.model_fields
            moved[rate].append((sample.moved_bytes, sample.seconds))
    return macs, moved


def _rate(found: list[tuple[float, float]], overhead: float) -> tuple[float, float, float]:
    """Work a second beyond the overhead: of all together, and the range of single operations."""
    work, seconds = np.array(found).T
    # Where the overhead is nearly all, a tenth of the time is taken for work; such operations say
    # little about a rate, and are left out where there are others.
    rest = np.maximum(seconds - overhead, 0.1 * seconds)
    long = seconds > 2 * overhead
    if long.sum() >= ENOUGH:
        work, rest = work[long], rest[long]
    low, high = np.quantile(work / rest, (0.05, 0.95))
    return float(work.sum() / rest.sum()), float(low), float(high)


def write_device(path: Path, spec: DeviceSpec) -> None:
    """Write a device file, whole or not at all."""
    text = yaml.safe_dump(
        spec.to_json(), sort_keys=False, allow_unicode=True, width=100, default_flow_style=None
    )
    write_atomically(path, HEADER + text)


def machine_spec(conditions: Conditions, place: str = "local") -> DeviceSpec:
    """A first spec of the machine under `conditions`, to be calibrated: guesses but for sizes.

    `place` is the target that the machine was reached as; the spec is named after it.
    """
    here = place == "local"
    where = "that costsim ran on" if here else f"at {place}"
    words = re.findall(r"[a-z0-9]+", place.partition("?")[0].removeprefix("ssh://").lower())
    clock = conditions.clock_hz or 2e9
    peak = conditions.threads * clock * 16
    bandwidth = 10e9

    def guess(value: float) -> dict[str, Any]:
        return {"value": value, "provenance": "estimate", "source": "a guess, to be calibrated"}

    def told(value: float) -> dict[str, Any]:
        return {"value": value, "provenance": "datasheet", "source": "told by the system"}

    def rates(share: float) -> dict[str, Any]:
        return {name: guess(share * peak) for name in MacRates.model_fields}

    shares: Mapping[str, float] = {
        "convolution": 0.3,
        "depthwise_convolution": 0.05,
        "pointwise_convolution": 0.2,
        "linear": 0.1,
        "matmul": 0.15,
    }
    throughput: dict[str, Any] = {kind: rates(share) for kind, share in shares.items()}
    throughput["elementwise"] = {name: guess(0.5 * bandwidth) for name in ByteRates.model_fields}
    return DeviceSpec.from_json(
        {
            "name": "this-machine" if here else "-".join(words),
            "title": f"{conditions.cpu}, {conditions.threads} threads",
            "description": f"The machine {where}, as far as its system describes it.",
            "memory": {
                "ram": {
                    "kind": "ram",
                    "size": told(conditions.memory_bytes),
                    "available": guess(0.8),
                    "holds": "everything of a step, all weights",
                }
            },
            "placement": {"frozen_weights": "ram", "updated_weights": "ram"},
            "bits": {
                "weights": [32, 64],
                "activations": [32, 64],
                "gradients": [32, 64],
                "source": "what the executor computes in",
            },
            "targets": {
                "cpu": {
                    "title": conditions.cpu,
                    "clock": told(clock),
                    "threads": told(conditions.threads),
                    "peak": {"fp32": guess(peak)},
                    "bandwidth": guess(bandwidth),
                    "overhead": guess(2e-5),
                    "throughput": throughput,
                    "power": {"compute": guess(65.0), "memory": guess(40.0), "idle": guess(20.0)},
                }
            },
            "default_target": "cpu",
            "training_budget": {
                "memory": guess(1e6),
                "accounting": "peak",
                "macs_share": guess(0.15),
            },
        },
        "this machine" if here else place,
    )
