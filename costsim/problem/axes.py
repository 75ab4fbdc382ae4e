"""Axes of channels that a person may ask for, by name; light, for help lists them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from costsim.ir.operators import UpdateKind

SCORED_AXES: Mapping[str, "tuple[UpdateKind, ...]"] = {
    "output": ("output",),
    "input": ("input",),
    "both": ("output", "input"),
    "bias": ("bias",),
    "output+bias": ("output", "bias"),
    "input+bias": ("input", "bias"),
    "both+bias": ("output", "input", "bias"),
}
"""What a person may ask to be scored, and so to be chosen from, by name."""
