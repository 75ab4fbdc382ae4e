"""The README of an emitted model."""

from costsim.c.emission.options import COMPILER_FLAGS, EmissionOptions
from costsim.c.emission.sizes import Sizes
from costsim.c.emission.templates import render
from costsim.ir.program import Direction, TrainingProgram


def readme(program: TrainingProgram, sizes: Sizes, options: EmissionOptions) -> str:
    """What it is, what it takes, how to build and call it."""
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
        ("variables", "RAM", sizes.variable_bytes),
        ("frozen weights", "flash", sizes.frozen_weight_bytes),
        ("initial values of the updated weights", "flash", sizes.initial_weight_bytes),
        ("tables", "flash", sizes.table_bytes),
    )
    return render(
        "README.md.jinja",
        name=options.name,
        step=program.step,
        sizes=sizes,
        rows=rows,
        macs=macs,
        flags=COMPILER_FLAGS,
    )
