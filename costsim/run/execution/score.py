"""Scores, where a step would compute and use gradients of weights."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

from torch import Tensor

from costsim.base.errors import InputError
from costsim.ir.graph import Call
from costsim.ir.program import Operation
from costsim.run.execution.binding import Binding, Buffers, Instruction

Scorer: TypeAlias = Callable[[Call, Mapping[str, Tensor]], None]
"""Called at the score of a call with what it reads, by role: its `gradient`, its `value`, ..."""


def score(bound: Binding, op: Operation, scorer: Scorer | None) -> Instruction:
    """Hand what a score reads to whoever scores; raises `InputError` where nobody does."""
    if scorer is None:
        raise InputError(f"{op.name}: a program that scores needs somebody who scores (scorer)")
    call = bound.call(op)
    readers = {operand.role: bound.reader(operand) for operand in op.reads}

    def run(buffers: Buffers) -> None:
        scorer(call, {role: read(buffers) for role, read in readers.items()})

    return run
