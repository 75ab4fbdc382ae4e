"""Elementwise non-linearities, softmax and its logarithm."""

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields

from costsim.ir.operators.base import GradientForm, Need, Operator, Saved, Shape, Shapes


@dataclass(frozen=True, slots=True)
class Activation(Operator):
    """A function of one element; its gradient may be written over the output's gradient."""

    any_memory_format = True
    overwritable_inputs = (0,)

    def output_shape(self, inputs: Sequence[Shape], weight: Shape | None) -> Shape:
        return inputs[0]

    def gradient_form(self, shapes: Shapes, index: int) -> GradientForm:
        return "in_place"

    @classmethod
    def usual(cls, shape: Shape) -> "Operator | None":
        return None if any(field.default is MISSING for field in fields(cls)) else cls()


class Masked(Activation):
    """A piecewise linear function: one bit an element says on which piece it was."""

    def saved(self, shapes: Shapes) -> Saved:
        return Saved(shapes.output, 1, "mask")

    def input_gradient_needs(self, shapes: Shapes, index: int) -> tuple[Need, ...]:
        return (Need("saved"),)


class FromOutput(Activation):
    """The derivative is a function of the output, which is kept."""

    def input_gradient_needs(self, shapes: Shapes, index: int) -> tuple[Need, ...]:
        return (Need("output"),)


class FromInput(Activation):
    """The derivative is a function of the input, which is kept."""

    def input_gradient_needs(self, shapes: Shapes, index: int) -> tuple[Need, ...]:
        return (Need("input"),)


@dataclass(frozen=True, slots=True)
class ReLU(Masked):
    """`max(x, 0)`; the gradient is 0 at 0."""

    kind = "relu"


@dataclass(frozen=True, slots=True)
class LeakyReLU(Masked):
    """`x` where positive, `negative_slope * x` elsewhere."""

    kind = "leaky_relu"

    negative_slope: float = 0.01


@dataclass(frozen=True, slots=True)
class Clamp(Masked):
    """`min(max(x, minimum), maximum)`: ReLU6 and hard tanh are clamps.

    `gradient_at_bounds`: torch passes the gradient at the bounds of `clamp` and stops it at those
    of `hardtanh` and `relu6`.
    """

    kind = "clamp"

    minimum: float
    maximum: float
    gradient_at_bounds: bool


@dataclass(frozen=True, slots=True)
class HardSigmoid(Masked):
    """`clamp(x / 6 + 1/2, 0, 1)`."""

    kind = "hard_sigmoid"


@dataclass(frozen=True, slots=True)
class HardSwish(FromInput):
    """`x * clamp(x / 6 + 1/2, 0, 1)`."""

    kind = "hard_swish"


@dataclass(frozen=True, slots=True)
class GELU(FromInput):
    """Gaussian error linear unit; `approximate` is torch's `none` or `tanh`."""

    kind = "gelu"

    approximate: str = "none"


@dataclass(frozen=True, slots=True)
class SiLU(FromInput):
    """`x * sigmoid(x)`."""

    kind = "silu"


@dataclass(frozen=True, slots=True)
class ELU(FromInput):
    """`x` where positive, `alpha * (exp(x) - 1)` elsewhere."""

    kind = "elu"

    alpha: float = 1.0


@dataclass(frozen=True, slots=True)
class Softplus(FromInput):
    """`log(1 + exp(beta * x)) / beta`, and `x` itself where `beta * x` is above `threshold`."""

    kind = "softplus"

    beta: float = 1.0
    threshold: float = 20.0


@dataclass(frozen=True, slots=True)
class Mish(FromInput):
    """`x * tanh(softplus(x))`."""

    kind = "mish"


@dataclass(frozen=True, slots=True)
class LogSigmoid(FromInput):
    """`-log(1 + exp(-x))`."""

    kind = "log_sigmoid"


@dataclass(frozen=True, slots=True)
class Sigmoid(FromOutput):
    """`1 / (1 + exp(-x))`."""

    kind = "sigmoid"


@dataclass(frozen=True, slots=True)
class Tanh(FromOutput):
    """Hyperbolic tangent."""

    kind = "tanh"


@dataclass(frozen=True, slots=True)
class Normalised(FromOutput):
    """Exponentials along one dimension, in relation to their sum."""

    any_memory_format = False

    dimension: int

    def output_dimension(self, shapes: Shapes, index: int, dimension: int) -> int | None:
        return None if self.dimension % len(shapes.output) == dimension else dimension


@dataclass(frozen=True, slots=True)
class Softmax(Normalised):
    """Softmax along one dimension."""

    kind = "softmax"


@dataclass(frozen=True, slots=True)
class LogSoftmax(Normalised):
    """Logarithm of the softmax along one dimension; its gradient is `g - exp(y) * sum(g)`."""

    kind = "log_softmax"
