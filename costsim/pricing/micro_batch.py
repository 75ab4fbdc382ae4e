"""How many samples of a step a device takes at a time."""

from collections.abc import Callable
from dataclasses import replace

from costsim.device import DeviceSpec
from costsim.ir.graph import LayerGraph
from costsim.ir.plan import UpdatePlan
from costsim.ir.program import TrainingProgram, compile_program
from costsim.ir.step import TrainingStep
from costsim.pricing.cost import resident_bytes

GraphAt = Callable[[int], LayerGraph]
"""The network at so many samples a pass."""


def largest_micro_batch(
    graph_at: GraphAt,
    plan: UpdatePlan,
    step: TrainingStep,
    device: DeviceSpec,
    limit_bytes: int | None = None,
) -> int | None:
    """The most samples a pass, of those that divide the batch of `step`, that fit without swapping.

    They fit where the buffers, with the weights that the device keeps in RAM, are within its
    largest block of it, and the buffers alone within `limit_bytes`, a budget of the peak. An
    operation has its overhead once a pass, and a weight is read once a pass, so that of all that
    fit the most samples take the fewest seconds. It changes no result but by rounding. None where
    not even one sample fits.
    """
    for samples in range(step.batch, 0, -1):
        if step.batch % samples:
            continue
        program = program_at(graph_at, plan, step, samples)
        peak, in_ram = resident_bytes(program, device)
        if in_ram <= device.largest_block_bytes and (limit_bytes is None or peak <= limit_bytes):
            return samples
    return None


def program_at(
    graph_at: GraphAt, plan: UpdatePlan, step: TrainingStep, samples: int
) -> TrainingProgram:
    """`step` with so many samples a pass; raises `InputError` if they do not divide its batch."""
    micro = None if samples == step.batch else samples
    return compile_program(graph_at(samples), plan, replace(step, micro_batch=micro))
