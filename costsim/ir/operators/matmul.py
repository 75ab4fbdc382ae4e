"""Products of two activations, as inside attention."""

from collections.abc import Sequence
from dataclasses import dataclass

from costsim.ir.operators.base import Need, Operator, Shape, ShapeError, Shapes, broadcast, elements


@dataclass(frozen=True, slots=True)
class MatMul(Operator):
    """Batched `scale * A B`, or `scale * A B^T` with `transpose_b`; leading dimensions broadcast.

    Each gradient is one product of the same size and reads the other factor.
    """

    kind = "matmul"

    transpose_b: bool = False
    scale: float = 1.0

    def output_shape(self, inputs: Sequence[Shape], weight: Shape | None) -> Shape:
        a, b = inputs
        rows, columns = (b[-1], b[-2]) if self.transpose_b else (b[-2], b[-1])
        if a[-1] != rows:
            raise ShapeError(f"inner dimensions of {a} and {b} differ")
        return (*broadcast([a[:-2], b[:-2]]), a[-2], columns)

    def work_kind(self, shapes: Shapes) -> str:
        return "matmul"

    def output_dimension(self, shapes: Shapes, index: int, dimension: int) -> int | None:
        rank = len(shapes.inputs[index])
        return None if dimension >= rank - 2 else dimension + len(shapes.output) - rank

    def forward_macs(self, shapes: Shapes) -> int:
        return elements(shapes.output) * shapes.inputs[0][-1]

    def input_gradient_macs(self, shapes: Shapes, index: int) -> int:
        return self.forward_macs(shapes)

    def input_gradient_needs(self, shapes: Shapes, index: int) -> tuple[Need, ...]:
        return (Need("input", 1 - index),)
