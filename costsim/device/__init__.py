"""Devices: what a board has, how fast it is, what it draws, and where each number comes from."""

from costsim.device.calibration import Calibration, Conditions, Law
from costsim.device.files import load_device, parse_device, shipped_devices
from costsim.device.interval import Interval
from costsim.device.quantity import INTERVAL_FACTORS, Provenance, Quantity
from costsim.device.spec import DeviceSpec, Placement, Region, Swap, TrainingBudget
from costsim.device.target import ELEMENTWISE_RATE, ComputeTarget, Throughput

__all__ = [
    "ELEMENTWISE_RATE",
    "INTERVAL_FACTORS",
    "Calibration",
    "ComputeTarget",
    "Conditions",
    "DeviceSpec",
    "Interval",
    "Law",
    "Placement",
    "Provenance",
    "Quantity",
    "Region",
    "Swap",
    "Throughput",
    "TrainingBudget",
    "load_device",
    "parse_device",
    "shipped_devices",
]
