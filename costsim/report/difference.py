"""Two plan files beside each other: what was asked, what was chosen, what it will cost."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from costsim.base.units import counted
from costsim.solving.planfile import PlanFile

PARTS: Mapping[str, tuple[str, ...]] = {
    "asked": (
        "model", "device", "step", "task", "recipe", "budgets", "loss", "candidates", "seed",
        "importance", "fleet", "sought", "solver",
    ),
    "predicted": ("predicted", "ways"),
    "device": ("device_spec",),
    "made by": ("versions",),
}  # fmt: skip
"""The keys of a plan file, in the order in which they are told; `layers` have their own words."""

CLOCKS = frozenset({"solver.seconds"})
"""What a clock measured: never the same twice, and no difference."""

BY_LAYER = frozenset({"importance.layers"})
"""Told once, layer by layer, as what was chosen."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One key that differs; `part` is a heading, None stands for what one of the two lacks."""

    part: str
    key: str
    left: Any
    right: Any


def differences(left: PlanFile, right: PlanFile) -> list[Difference]:
    """Everything in which two plan files differ but what a clock measured."""
    one, other = left.to_json(), right.to_json()
    found = []
    for part in ("asked", "chosen", "predicted", "device", "made by"):
        if part == "chosen":
            found += _layers(left, right)
            continue
        for name in PARTS[part]:
            a, b = dict(_leaves(name, one.get(name))), dict(_leaves(name, other.get(name)))
            found += [
                Difference(part, key, a.get(key), b.get(key))
                for key in dict.fromkeys((*a, *b))
                if a.get(key) != b.get(key)
            ]
    return found


def _leaves(key: str, value: object) -> Iterator[tuple[str, Any]]:
    """The values inside, each with its dotted key; phases and the like go by their name."""
    if key in CLOCKS | BY_LAYER:
        return
    if isinstance(value, Mapping):
        for name, inside in value.items():
            yield from _leaves(f"{key}.{name}", inside)
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        for number, inside in enumerate(value):
            name = inside.get("phase", inside.get("name", number))
            if "part" in inside:  # of a recipe, at another value
                name = f"{inside['part']} {inside['value']}"
            yield from _leaves(f"{key}.{name}", inside)
    else:
        yield key, value


def _layers(left: PlanFile, right: PlanFile) -> list[Difference]:
    found = []
    for name in dict.fromkeys((*left.order, *right.order)):
        a, b = _chosen(left, name), _chosen(right, name)
        if a != b:
            told = [_told(one) for one in (a, b)]
            if told[0] == told[1]:  # as many, but others
                both = len(set(a[1]) & set(b[1]))
                told = [f"{words} ({both} in both)" for words in told]
            found.append(Difference("chosen", name, *told))
    return found


def _chosen(file: PlanFile, layer: str) -> tuple[str | None, tuple[int, ...], bool]:
    subset = file.plan.by_layer.get(layer)
    bias = layer in file.plan.biases
    return (None, (), bias) if subset is None else (subset.axis, subset.channels, bias)


def _told(chosen: tuple[str | None, tuple[int, ...], bool]) -> str | None:
    axis, channels, bias = chosen
    parts = [f"{counted(len(channels), 'channel')} ({axis})"] if axis is not None else []
    parts += ["bias"] if bias else []
    return ", ".join(parts) or None
