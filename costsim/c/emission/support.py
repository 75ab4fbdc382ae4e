"""Which operators there is C for."""

from costsim.base.errors import InputError, UnsupportedOperator
from costsim.c.emission.forward import FORWARD, NO_KERNEL
from costsim.c.emission.quantization import check_quantised
from costsim.c.emission.text import title
from costsim.ir.graph import LayerGraph
from costsim.ir.step import BitWidths, TrainingStep

NARROW = 8
WIDTHS = ((32, 32, 32, 32), (8, 8, 32, 32))
"""Bits of weights, activations, gradients and optimizer state that there are kernels for."""

WINDOW_LIMIT = 256


NARROW_OPTIMIZERS = ("sgd", "momentum")
"""Optimizers that there is C for in 8 bits."""


MEASURED_LOSS = "cross_entropy"
"""The loss of a step whose bytes and MACs are measured: neither depends on the loss."""


def is_narrow(bits: BitWidths) -> bool:
    """Whether values and weights are 8-bit integers, which need scales."""
    return bits.activations == NARROW


def why_not_emitted(step: TrainingStep) -> str | None:
    """The reason there is no C for such steps, whatever the network; None where there is."""
    bits = step.bits
    found = (bits.weights, bits.activations, bits.gradients, bits.optimizer)
    if found not in WIDTHS:
        return (
            f"the step has {bits.weights}-bit weights, {bits.activations}-bit activations and "
            f"{bits.gradients}-bit gradients; C is emitted for 32 bits, and for 8-bit weights and "
            "activations with 32-bit gradients (costsim plan --bits 32, or --bits "
            "8,gradients=32,optimizer=32)"
        )
    if is_narrow(bits) and step.optimizer not in NARROW_OPTIMIZERS:
        return (
            f"optimizer {step.optimizer!r} has no C kernel for 8-bit weights; there are kernels "
            f"for {' and '.join(NARROW_OPTIMIZERS)} (or costsim plan --bits 32)"
        )
    return None


def told_of_loss(loss: str | None) -> tuple[str, ...]:
    """What to say where C runs the step of a plan whose own `loss` is another, or not known."""
    if loss == MEASURED_LOSS:
        return ()
    own = "does not say its loss" if loss is None else f"was made with another loss, {loss}"
    return (
        "the C does the step with cross entropy, the model's outputs taken for logits; the plan "
        f"{own}",
    )


def check_step(graph: LayerGraph, step: TrainingStep) -> None:
    """Raise `InputError`, naming the call and the operator, where there is no C for a step."""
    if (reason := why_not_emitted(step)) is not None:
        raise InputError(reason)
    check_kernels(graph, step.bits)


def check_kernels(graph: LayerGraph, bits: BitWidths) -> None:
    """Raise `InputError`, naming the call and its layer, for an operator without a C kernel."""
    check_emitted(graph)
    if is_narrow(bits):
        check_quantised(graph)


def check_emitted(graph: LayerGraph) -> None:
    """Raise `UnsupportedOperator`, naming the call, where there is no kernel for it."""
    for call in graph.calls:
        o = call.operator
        if o.source != "sample" and o not in FORWARD:
            reason = f" ({NO_KERNEL[o]()})" if o in NO_KERNEL else ""
            raise UnsupportedOperator(
                f"{title(graph, call)}: operator {o.kind!r} has no C kernel{reason}; there are "
                f"kernels for {', '.join(sorted(FORWARD.keys()))}"
            )
        if (size := o.saved_places()) > WINDOW_LIMIT:
            raise InputError(
                f"{title(graph, call)}: a window of {size} elements; the place of a maximum is one "
                f"byte, so that {WINDOW_LIMIT} is the limit"
            )
