"""Which operators there is C for."""

from costsim.emission.forward import FORWARD
from costsim.errors import InputError, UnsupportedOperator
from costsim.graph import LayerGraph
from costsim.operators import Shape

SPATIAL_LIMIT = 3
WINDOW_LIMIT = 256


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
