"""Which operators there is C for."""

from costsim.emission.forward import FORWARD
from costsim.emission.quantization import check_quantised
from costsim.errors import InputError, UnsupportedOperator
from costsim.graph import LayerGraph
from costsim.operators import Shape
from costsim.step import BitWidths

NARROW = 8
WIDTHS = ((32, 32, 32, 32), (8, 8, 32, 32))
"""Bits of weights, activations, gradients and optimiser state that there are kernels for."""

WINDOW_LIMIT = 256


def why_not_emitted(graph: LayerGraph, bits: BitWidths) -> str | None:
    """The reason there is no C for steps of `graph` in these widths; None where there is."""
    found = (bits.weights, bits.activations, bits.gradients, bits.optimizer)
    if found not in WIDTHS:
        return (
            f"{bits.weights}-bit weights, {bits.activations}-bit activations and "
            f"{bits.gradients}-bit gradients have no C kernels"
        )
    try:
        check_emitted(graph)
        if bits.activations == NARROW:
            check_quantised(graph)
    except InputError as error:
        return str(error)
    return None


def check_emitted(graph: LayerGraph) -> None:
    """Raise `UnsupportedOperator`, naming the call, where there is no kernel for it."""
    for call in graph.calls:
        kind = call.operator.kind
        if kind != "input" and kind not in FORWARD:
            raise UnsupportedOperator(
                f"call {call.name!r}: operator {kind!r} has no C kernel; there are kernels for "
                f"{', '.join(sorted(FORWARD))}"
            )
        kernel: Shape = getattr(call.operator, "kernel", ())
        size = 1
        for taps in kernel:
            size *= taps
        if kind == "max_pool" and size > WINDOW_LIMIT:
            raise InputError(
                f"call {call.name!r}: a window of {size} elements; the place of a maximum is one "
                f"byte, so that {WINDOW_LIMIT} is the limit"
            )
