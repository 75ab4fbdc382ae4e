"""The MACs of a table."""

from costsim.ir.program import Direction
from costsim.pricing.derivation.coefficients import Clauses, Coefficients
from costsim.pricing.derivation.schedule_index import Scheduled


def mac_rows(
    of: Scheduled, clauses: Clauses
) -> tuple[Coefficients, Coefficients, Coefficients, int]:
    """Of what is computed again, of input gradients, of weight gradients; and forward, a number."""
    recompute, input_gradient, weight_gradient = (Coefficients(clauses) for _ in range(3))
    forward = 0
    for step in of.schedule.steps:
        macs = step.macs * of.step.passes
        match step.direction:
            case Direction.FORWARD:
                forward += macs
            case Direction.RECOMPUTE if macs and step.guard:
                recompute.add_clause(step.guard, macs)
            case Direction.INPUT_GRADIENT if macs and step.guard:
                input_gradient.add_clause(step.guard, macs)
            case Direction.WEIGHT_GRADIENT if step.channels_of:
                weight_gradient.add_channels(step.channels_of, macs)
    return recompute, input_gradient, weight_gradient, forward
