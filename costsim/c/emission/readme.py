"""The README of an emitted model."""

from costsim.c.emission.camera import CHANNEL_ORDERS, NORMALISED, takes_images
from costsim.c.emission.memory import Memory
from costsim.c.emission.model_header import told_of_classifier
from costsim.c.emission.options import COMPILER_FLAGS, EmissionOptions
from costsim.c.emission.sizes import Sizes
from costsim.c.emission.templates import render
from costsim.ir.program import Direction


def readme(memory: Memory, sizes: Sizes, options: EmissionOptions, kept_bytes: int) -> str:
    """What it is, what it takes, how to build and call it."""
    program = memory.program
    macs = {
        direction.value: sum(
            op.unpadded_macs * program.times(op)
            for op in program.operations
            if op.direction is direction
        )
        for direction in Direction
    }
    rows = (
        ("arena", "RAM", sizes.arena_bytes),
        ("- of it updated weights", "RAM", sizes.updated_weight_bytes),
        ("- of it optimizer state", "RAM", sizes.optimizer_bytes),
        *((("class means", "RAM", sizes.class_means_bytes),) if sizes.class_means_bytes else ()),
        ("variables", "RAM", sizes.variable_bytes),
        ("frozen weights", "flash", sizes.frozen_weight_bytes),
        ("initial values of the updated weights", "flash", sizes.initial_weight_bytes),
        ("tables", "flash", sizes.table_bytes),
    )
    return render(
        "README.md.jinja",
        name=options.name,
        class_means=options.class_means is not None,
        told_loss=told_of_classifier(options),
        image=takes_images(memory),
        shape=program.graph[program.graph.input].shape,
        channel_order=CHANNEL_ORDERS.get(program.graph[program.graph.input].shape[1], ""),
        normalised=NORMALISED,
        iterations=options.iterations,
        kept_bytes=kept_bytes,
        step=program.step,
        sizes=sizes,
        rows=rows,
        macs=macs,
        flags=COMPILER_FLAGS,
    )
