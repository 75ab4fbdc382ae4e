"""Functions of one element that networks compute with, rather than bend values by."""

from dataclasses import dataclass

from costsim.ir.operators.activation import FromInput, FromOutput


@dataclass(frozen=True, slots=True)
class Exp(FromOutput):
    """`exp(x)`."""

    kind = "exp"


@dataclass(frozen=True, slots=True)
class Log(FromInput):
    """Natural logarithm."""

    kind = "log"


@dataclass(frozen=True, slots=True)
class SquareRoot(FromOutput):
    """`sqrt(x)`; the gradient at 0 is infinite, as torch's is."""

    kind = "square_root"


@dataclass(frozen=True, slots=True)
class ReciprocalSquareRoot(FromOutput):
    """`1 / sqrt(x)`."""

    kind = "reciprocal_square_root"


@dataclass(frozen=True, slots=True)
class Reciprocal(FromOutput):
    """`1 / x`."""

    kind = "reciprocal"


@dataclass(frozen=True, slots=True)
class Absolute(FromInput):
    """`|x|`; the gradient is 0 at 0, so that one bit an element does not tell it."""

    kind = "absolute"


@dataclass(frozen=True, slots=True)
class Power(FromInput):
    """`x ** exponent`, of an exponent other than 0."""

    kind = "power"

    exponent: float = 0.5
