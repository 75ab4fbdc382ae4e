"""Which layer a buffer or an operation belongs to."""

from costsim.ir.program import Operation, TrainingProgram

_OF_UPDATES = ("weights:", "dweights:", "optimizer:")


def call_owner(program: TrainingProgram, call: str) -> str:
    """The layer of a call, or the call itself where it has none."""
    return program.graph[call].layer or call


def buffer_owner(program: TrainingProgram, name: str) -> str | None:
    """The layer that made what is in a buffer (or its call), or whose update it serves."""
    if name.startswith(_OF_UPDATES):
        layer = name.split(":", 2)[2]
        return layer if layer in program.graph.layers else call_owner(program, layer.split(":")[-1])
    name = name.removesuffix(" again")
    candidates = (name, name.partition(":")[2])
    call = next((one for one in candidates if one in program.graph), None)
    return None if call is None else call_owner(program, call)


def operation_owner(program: TrainingProgram, operation: Operation) -> str | None:
    """The layer an operation works for (or its call)."""
    if operation.call is not None:
        return call_owner(program, operation.call)
    if not operation.writes:
        return None
    return buffer_owner(program, program.buffers[operation.writes[0].buffer].name)
