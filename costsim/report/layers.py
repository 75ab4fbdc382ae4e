"""What each layer of a model takes in one step, read from the training program."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from costsim.ir.graph import LayerGraph
from costsim.ir.program import Buffer, Category, Direction, TrainingProgram

GROUPS = (
    "updated weights",
    "optimizer state",
    "kept for the backward pass",
    "weight gradients",
    "gradients in passing",
    "activations in passing",
)
"""What live bytes are for, from what lasts longest to what lasts shortest."""


GROUP_COLOURS = dict(
    zip(
        GROUPS,
        ("weights", "optimizer", "kept", "dweights", "gradient", "activation"),
        strict=True,
    )
)
"""The page's colour of each group."""


@dataclass(frozen=True, slots=True)
class LayerMacs:
    """MACs of one step that one layer (or one call without weights) causes."""

    name: str
    forward: int
    recompute: int
    input_gradient: int
    weight_gradient: int


def layer_macs(program: TrainingProgram) -> tuple[LayerMacs, ...]:
    """MACs of one step by layer, in the model's order; those without any are left out."""
    order: dict[str, list[int]] = {}
    causes = {
        Direction.FORWARD: 0,
        Direction.RECOMPUTE: 1,
        Direction.INPUT_GRADIENT: 2,
        Direction.WEIGHT_GRADIENT: 3,
    }
    for operation in program.operations:
        if operation.macs and operation.call:
            name = program.graph[operation.call].layer or operation.call
            counts = order.setdefault(name, [0] * len(causes))
            counts[causes[operation.direction]] += operation.macs * program.times(operation)
    return tuple(LayerMacs(name, *counts) for name, counts in order.items())


def kept_bytes(program: TrainingProgram) -> Mapping[str | None, int]:
    """Bytes kept for the weight gradient of each layer, each buffer for the first that reads it.

    Under None: bytes kept for no weight gradient, which are masks and values of non-linearities
    that the gradient crosses.
    """
    readers: dict[int, set[str]] = {}
    for operation in program.operations:
        if operation.direction is Direction.WEIGHT_GRADIENT and operation.call:
            layer = program.graph[operation.call].layer
            for operand in operation.reads:
                if layer is not None:
                    readers.setdefault(operand.buffer, set()).add(layer)
    index = {buffer.name: i for i, buffer in enumerate(program.buffers)}
    found: dict[str | None, int] = {}
    for buffer in program.kept():
        layers = readers.get(index[buffer.name], set())
        first = next((name for name in program.graph.layers if name in layers), None)
        found[first] = found.get(first, 0) + buffer.bytes
    return found


def live_bytes(program: TrainingProgram) -> dict[str, NDArray[np.int64]]:
    """Live bytes of each of `GROUPS` at each operation; they sum to the memory timeline."""
    steps = len(program.operations)
    change = {group: np.zeros(steps + 1, dtype=np.int64) for group in GROUPS}
    kept = {buffer.name for buffer in program.kept()}
    for buffer in program.buffers:
        if buffer.category is not Category.FROZEN_WEIGHTS:
            group = change[_group(buffer, buffer.name in kept)]
            group[buffer.birth] += buffer.bytes
            group[buffer.death + 1] -= buffer.bytes
    return {group: np.cumsum(delta)[:-1] for group, delta in change.items()}


def _group(buffer: Buffer, kept: bool) -> str:
    if kept:
        return "kept for the backward pass"
    return {
        Category.UPDATED_WEIGHTS: "updated weights",
        Category.OPTIMIZER: "optimizer state",
        Category.WEIGHT_GRADIENT: "weight gradients",
        Category.GRADIENT: "gradients in passing",
    }.get(buffer.category, "activations in passing")


def layer_kind(graph: LayerGraph, name: str) -> str:
    """What a layer does, in a few characters: `pointwise 96→160`, `depthwise 5×5`."""
    call = graph[graph.layers[name].calls[0]]
    return call.operator.label(graph.shapes(call))
