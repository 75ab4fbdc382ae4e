"""What one part of the library makes of each operator: a table of functions, one a class.

A part that runs, emits or accounts for operators reads them all, each in its own way. Its table is
filled where the functions stand, and each function is checked against the class it is for:

    FORWARD: Reading[[Operands], Tensor] = Reading("forward function")

    @FORWARD.of(Convolution)
    def _convolution(o: Convolution, t: Operands) -> Tensor: ...

    output = FORWARD[call.operator](operands)
"""

from collections.abc import Callable
from functools import partial
from typing import Concatenate, Generic, ParamSpec, TypeAlias, TypeVar

from costsim.base.errors import UnsupportedOperator
from costsim.ir.operators import OPERATORS
from costsim.ir.operators.base import Operator

O = TypeVar("O", bound=Operator)  # noqa: E741
P = ParamSpec("P")
R = TypeVar("R")

Handler: TypeAlias = Callable[Concatenate[O, P], R]
"""(an operator, what it works on) to what is made of it."""


class Reading(Generic[P, R]):
    """Functions of an operator and of `P`, that return `R`; `what` names one in messages."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._handlers: dict[type[Operator], Callable[..., R]] = {}

    def of(self, *operators: type[O]) -> Callable[[Handler[O, P, R]], Handler[O, P, R]]:
        """Files a function for these classes of operators; it must take what they share.

        One filed for a class that several kinds have in common is for all of them that have none
        of their own.

        Raises `ValueError` for a class that has one already.
        """

        def file(handler: Handler[O, P, R]) -> Handler[O, P, R]:
            for operator in operators:
                if operator in self._handlers:
                    raise ValueError(f"operator {operator.kind!r} has two of {self.what}")
                self._handlers[operator] = handler
            return handler

        return file

    def __getitem__(self, operator: Operator) -> Callable[P, R]:
        """The function of an operator, which it is given already.

        Raises `UnsupportedOperator` where there is none.
        """
        handler = self._handler(type(operator))
        if handler is None:
            raise UnsupportedOperator(
                f"operator {operator.kind!r} has no {self.what}; there is one of "
                f"{', '.join(sorted(self.keys()))}"
            )
        return partial(handler, operator)

    def __contains__(self, operator: Operator) -> bool:
        return self._handler(type(operator)) is not None

    def keys(self) -> frozenset[str]:
        """The kinds of operators that have a function."""
        return frozenset(kind for kind, one in OPERATORS.items() if self._handler(one) is not None)

    def _handler(self, operator: type[Operator]) -> Callable[..., R] | None:
        """The function for a class: its own, or of the nearest class that it is one of."""
        filed = (self._handlers[one] for one in operator.__mro__ if one in self._handlers)
        return next(filed, None)
