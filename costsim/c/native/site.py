"""What one operation is lowered with: its operands, the weights, and lists of channels."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np
from numpy.typing import NDArray

from costsim.c.native.record import Place
from costsim.c.native.weights import PackedWeights
from costsim.ir.graph import Call
from costsim.ir.operators import Shape, Shapes
from costsim.ir.program import Category, Operation, TrainingProgram

IMAGES = 4
"""Dimensions of a batch of images, which lie with their channels last."""


@dataclass
class Lists:
    """Numbers that records point to; they live as long as this does."""

    _arrays: list[NDArray[np.int64]] = field(default_factory=list)

    def address(self, numbers: Sequence[int]) -> int:
        """Address of these numbers."""
        self._arrays.append(np.array(numbers, np.int64))
        return int(self._arrays[-1].ctypes.data)


@dataclass(frozen=True)
class Site:
    """One operation of `program` that is being lowered."""

    program: TrainingProgram
    weights: PackedWeights
    lists: Lists
    op: Operation

    @property
    def call(self) -> Call:
        """The call of the model that the operation belongs to."""
        assert self.op.call is not None
        return self.program.graph[self.op.call]

    @property
    def shapes(self) -> Shapes:
        """Shapes of the call."""
        return self.program.graph.shapes(self.call)

    @property
    def out(self) -> int:
        """The buffer written first."""
        return self.op.writes[0].buffer

    @property
    def saved_out(self) -> dict[Place, int]:
        """Where the mask goes; nowhere if it is not needed."""
        return {Place.MASK_OUT: self.op.writes[1].buffer} if len(self.op.writes) > 1 else {}

    def reads_parameter(self) -> bool:
        """Whether a value that is read is the memory of a parameter, which is not in the arena."""
        buffers = self.program.buffers
        return any(
            buffers[read.buffer].category is Category.FROZEN_WEIGHTS and read.value is not None
            for read in self.op.reads
        )

    @property
    def is_trained(self) -> bool:
        """Whether the plan updates channels of the call's weight."""
        return self.call.layer in self.program.plan.by_layer

    def bias(self) -> dict[Place, int]:
        """Address of the bias; nowhere if there is none."""
        bias = self.call.bias
        return {} if bias is None else {Place.BIAS: self.weights.vector(bias.name)}

    def may_be_read_as_it_is(self, columns: int) -> bool:
        """Whether the weight, as a matrix with these columns, can be read without packing it."""
        assert self.call.weight is not None
        whole = self.weights.library.target.whole_columns
        return (
            columns % whole == 0 and self.weights.tensors[self.call.weight.name].flags.c_contiguous
        )


def pixels(shape: Shape) -> tuple[int, int]:
    """(rows, columns) of a value in memory: the channels of images are last, as in a matrix."""
    if len(shape) == IMAGES:
        return shape[0] * prod(shape[2:]), shape[1]
    return prod(shape[:-1]), shape[-1]
