"""Where values come from: the sample, and parameters used as values."""

from collections.abc import Sequence
from dataclasses import dataclass

from costsim.ir.operators.base import Operator, Shape, Shapes


@dataclass(frozen=True, slots=True)
class Input(Operator):
    """The batch of samples."""

    kind = "input"
    source = "sample"
    any_memory_format = True

    shape: tuple[int, ...]

    def output_shape(self, inputs: Sequence[Shape], weight: Shape | None) -> Shape:
        return self.shape


@dataclass(frozen=True, slots=True)
class Constant(Operator):
    """A parameter or buffer used as a value, such as a position embedding.

    A parameter is updated like a bias: its gradient is the gradient of the value, and nothing
    is kept for it.
    """

    kind = "constant"
    source = "parameter"
    adds_bias = False

    shape: tuple[int, ...]

    def output_shape(self, inputs: Sequence[Shape], weight: Shape | None) -> Shape:
        return self.shape

    def bias_dimensions(self, shapes: Shapes) -> tuple[int, ...]:
        return tuple(range(len(self.shape)))
