"""How values and weights are represented in 8 bits, and what they are in those."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from costsim.base.errors import InputError, UnsupportedOperator
from costsim.c.emission.text import title
from costsim.ir.graph import Call, LayerGraph
from costsim.ir.operators import (
    AdaptiveAveragePool,
    Add,
    AveragePool,
    Clamp,
    Convolution,
    Input,
    Linear,
    MaxPool,
    Mean,
    ReLU,
    Reshape,
    Shapes,
)
from costsim.ir.operators.reading import Reading

LOW, HIGH = -128, 127

SAME = (ReLU, Clamp, Reshape, MaxPool)
"""Operators whose output has the scale of their input."""

QUANTISED: Reading[[Shapes], str] = Reading("8-bit kernel")
"""Why there is no 8-bit kernel for an operator in some shapes; empty where there is one."""
QUANTISED.of(Input, Convolution, Linear, AveragePool, AdaptiveAveragePool, *SAME)(
    lambda _o, _shapes: ""
)


@QUANTISED.of(Add)
def _add(o: Add, shapes: Shapes) -> str:
    same = set(shapes.inputs) == {shapes.output}
    return "" if same else "an 'add' of different shapes has no 8-bit kernel"


@QUANTISED.of(Mean)
def _mean(o: Mean, shapes: Shapes) -> str:
    last = o.dimensions == tuple(range(2, len(shapes.inputs[0])))
    return "" if last else "a 'mean' of other dimensions than the last has no 8-bit kernel"


CLIPPED: Reading[[float, float], tuple[float, float]] = Reading("range in 8 bits")
"""The range of a value, given the range of what it is cut off from."""
CLIPPED.of(ReLU)(lambda _o, _low, high: (0.0, high))
CLIPPED.of(Clamp)(lambda o, low, high: (max(low, o.minimum), min(high, o.maximum)))


@dataclass(frozen=True)
class Affine:
    """A value is `scale * (q - zero)`, q from -128 to 127; the scale is a float32."""

    scale: float
    zero: int

    def __post_init__(self) -> None:
        if not (0 < self.scale < np.inf and LOW <= self.zero <= HIGH):
            raise InputError(f"scale {self.scale:g} and zero {self.zero} represent nothing")

    def quantise(self, values: NDArray[Any]) -> NDArray[np.int8]:
        """The integers that floats become, as `costsim_q_quantise` computes them."""
        scaled: NDArray[np.float32] = np.asarray(values, np.float32) / np.float32(self.scale)
        return saturated(scaled, self.zero)

    def real(self, whole: NDArray[Any]) -> NDArray[np.float32]:
        """The floats that integers stand for."""
        differences: NDArray[np.float32] = (whole.astype(np.int32) - self.zero).astype(np.float32)
        return differences * np.float32(self.scale)

    def bound(self, value: float) -> int:
        """The integer nearest to a value, saturated."""
        scaled = np.rint(np.float32(value) / np.float32(self.scale)) + self.zero
        return int(np.clip(scaled, LOW, HIGH))


def saturated(units: NDArray[Any], zero: int) -> NDArray[np.int8]:
    """Floats in units of a scale as integers: to the nearest, halves to even, saturating."""
    found: NDArray[np.int8] = np.clip(np.rint(units) + np.float32(zero), LOW, HIGH).astype(np.int8)
    return found


@dataclass(frozen=True, eq=False)
class Quantization:
    """The representation of every value, by call, and the scales `[C_out]` of every weight.

    `biases` are integers that biases are known to come from, where floats are too coarse to say.
    """

    values: Mapping[str, Affine]
    weight_scales: Mapping[str, NDArray[np.float32]]
    biases: Mapping[str, NDArray[np.int32]] = field(default_factory=dict)

    def input_of(self, call: Call) -> Affine:
        """Of a call's first input."""
        return self.values[call.inputs[0]]


def quantize_ranges(
    graph: LayerGraph,
    weights: Mapping[str, Any],
    ranges: Mapping[str, tuple[float, float]],
    weight_scales: Mapping[str, Any] | None = None,
) -> Quantization:
    """Scales from the least and greatest of every value (by call), seen on some samples.

    What a ReLU or clamp alone reads saturates at its bounds, so that the integers at the ends
    stand for what is cut off. A weight's scales are those given, or its channels' largest / 127.
    Raises `UnsupportedOperator` for an operator without 8-bit kernels.
    """
    check_quantised(graph)
    readers: dict[str, list[Call]] = {}
    for call in graph.calls:
        for value in call.inputs:
            readers.setdefault(value, []).append(call)
    values: dict[str, Affine] = {}
    for call in graph.calls:
        if isinstance(call.operator, SAME):
            values[call.name] = values[call.inputs[0]]
            continue
        low, high = ranges[call.name]
        (reader, *more) = readers.get(call.name, [call])
        if not more and reader.operator in CLIPPED:
            low, high = CLIPPED[reader.operator](low, high)
        low, high = min(low, 0.0), max(high, 0.0)
        scale = float(np.float32((high - low) / (HIGH - LOW) or 1.0))
        values[call.name] = Affine(scale, int(np.clip(np.rint(LOW - low / scale), LOW, HIGH)))
    scales = {}
    for call in graph.calls:
        if call.weight is not None:
            name = call.weight.name
            given = None if weight_scales is None else weight_scales.get(name)
            rows = np.abs(np.asarray(weights[name], np.float64)).reshape(call.weight.shape[0], -1)
            found = rows.max(axis=1) / HIGH if given is None else np.asarray(given)
            scales[name] = np.where(found > 0, found, 1.0).astype(np.float32)
    return Quantization(values, scales)


def check_quantised(graph: LayerGraph) -> None:
    """Raise `UnsupportedOperator` for a call without an 8-bit kernel."""
    for call in graph.calls:
        reason = f"operator {call.operator.kind!r} has no 8-bit kernel"
        if call.operator in QUANTISED:
            reason = QUANTISED[call.operator](graph.shapes(call))
        if reason:
            raise UnsupportedOperator(
                f"{title(graph, call)}: {reason}; plan with --bits 32 "
                f"(8 bits: {', '.join(sorted(QUANTISED.keys()))})"
            )


def integers(
    graph: LayerGraph, weights: Mapping[str, Any], quantization: Quantization
) -> dict[str, NDArray[np.generic]]:
    """Weights as int8 and biases as int32, in their own shapes."""
    found: dict[str, NDArray[np.generic]] = {}
    for call in graph.calls:
        if call.weight is None:
            continue
        scales = quantization.weight_scales[call.weight.name]
        weight = np.asarray(weights[call.weight.name], np.float32)
        shaped = scales.reshape(-1, *(1,) * (weight.ndim - 1))
        found[call.weight.name] = np.clip(np.rint(weight / shaped), LOW, HIGH).astype(np.int8)
        if call.bias is not None:
            unit = np.float64(quantization.input_of(call).scale) * scales.astype(np.float64)
            given = np.asarray(weights[call.bias.name], np.float32)
            bias = np.clip(np.rint(given / unit), -(2**31), 2**31 - 1).astype(np.int32)
            if (known := quantization.biases.get(call.bias.name)) is not None:
                same = np.isclose(known * unit, given, rtol=2.0**-22, atol=0)
                bias = np.where(same, known, bias).astype(np.int32)
            found[call.bias.name] = bias
    return found
