"""The header of an emitted step: what a firmware may know of it."""

from costsim.c.emission.memory import Memory
from costsim.c.emission.options import EmissionOptions
from costsim.c.emission.quantization import Quantization
from costsim.c.emission.sizes import Sizes
from costsim.c.emission.templates import render
from costsim.c.emission.text import comment, number
from costsim.ir.operators import elements


def header_text(
    memory: Memory, sizes: Sizes, options: EmissionOptions, quantization: Quantization | None
) -> str:
    """`costsim_model.h`: sizes, the three functions, and how to do a step in pieces."""
    program, graph = memory.program, memory.graph
    sample = graph[graph.input].shape[1:]
    output = graph[graph.output].shape
    given = memory.index.get(graph.input)
    given_shape = graph[graph.input].shape
    constants = {
        "ARENA_BYTES": (sizes.arena_bytes, "all RAM that a step works in"),
        "ARENA_LOWER_BOUND_BYTES": (sizes.lower_bound_bytes, "no arena is smaller"),
        "UPDATED_WEIGHT_BYTES": (sizes.updated_weight_bytes, "inside the arena, throughout"),
        "OPTIMIZER_BYTES": (sizes.optimizer_bytes, "inside the arena, throughout"),
        "FROZEN_WEIGHT_BYTES": (sizes.frozen_weight_bytes, "in flash"),
        "INITIAL_WEIGHT_BYTES": (sizes.initial_weight_bytes, "in flash, copied by costsim_init"),
        "BATCH": (program.step.batch, "samples in a training step"),
        "SAMPLES": (program.step.samples_a_pass, "samples in one pass, and in a prediction"),
        "PASSES": (program.step.passes, "passes in a training step"),
        "INPUTS": (elements(sample), "numbers in a sample"),
        "INPUT_BYTES": (4 * elements(given_shape), "COSTSIM_INPUT: a pass's samples in floats"),
        "OUTPUTS": (elements(output) // output[0], "numbers the model returns for a sample"),
        "OPERATIONS": (len(program.operations), "operations of a pass and the updates"),
        "LOSS_OPERATION": (program.loss_position, "a prediction runs those before it"),
    }
    if quantization is not None:
        given_as = quantization.values[graph.input]
        of = f"value / {number(given_as.scale)} {given_as.zero:+d}, rounded, from -128 to 127"
        constants["INPUT_BYTES"] = (elements(given_shape), f"COSTSIM_INPUT, of integers: {of}")
    place = "costsim_arena"
    if given is not None:
        place = memory.buffer(given).replace("AT", "COSTSIM_AT")
    return render(
        "costsim_model.h.jinja",
        model=comment(options.name),
        constants=constants,
        shape=" x ".join(map(str, sample)),
        learning_rate=number(options.learning_rate),
        place=place,
    )
