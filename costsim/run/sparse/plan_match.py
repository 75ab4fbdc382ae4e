"""Whether a plan file was made for a model of this architecture and input size."""

from costsim.base.errors import InputError
from costsim.ir.graph import LayerGraph
from costsim.ir.program import Category, compile_program
from costsim.pricing.cost import mac_cost
from costsim.solving.planfile import PlanFile

_WEIGHTS = (Category.UPDATED_WEIGHTS, Category.FROZEN_WEIGHTS)


def check_planned(file: PlanFile, graph: LayerGraph) -> None:
    """Price the plan again on `graph`, traced at the samples of one pass of the plan's step.

    MACs and bytes of weights are those predicted, or `InputError` is raised.
    """
    if file.predicted is None:
        return
    program = compile_program(graph, file.plan, file.step)
    macs, memory = mac_cost(program), file.predicted.memory
    predicted = file.predicted.macs
    for what, here, planned in (
        ("forward MACs", macs.forward, predicted.forward),
        ("input gradient MACs", macs.input_gradient, predicted.input_gradient),
        ("weight gradient MACs", macs.weight_gradient, predicted.weight_gradient),
        (
            "bytes of weights",
            sum(buffer.bytes for buffer in program.buffers if buffer.category in _WEIGHTS),
            memory.updated_weight_bytes + memory.frozen_weight_bytes,
        ),
    ):
        if here != planned:
            shape = "x".join(map(str, graph[graph.input].shape[1:]))
            raise InputError(
                f"was made for another model or input size: {planned:,} {what} were predicted for "
                f"{file.model.name}; this model has {here:,} on input {shape}"
            )
