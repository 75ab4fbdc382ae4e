"""Counting the multiply-accumulates of the operator calls that PyTorch really makes."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from math import prod
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from costsim.ir.program import Direction, Operation

aten: Any = torch.ops.aten

CallMacs: TypeAlias = Callable[[tuple[Any, ...], Any], int]
"""(arguments of the call in schema order, its result) to MACs."""


def _convolution(arguments: tuple[Any, ...], result: Any) -> int:
    x, weight, transposed = arguments[0], arguments[1], arguments[6]
    # A weight is [one channel, the other / groups, *kernel]: each element of what has the first
    # kind of channel meets the rest of it.
    return int((x if transposed else result).numel() * prod(weight.shape[1:]))


def _convolution_backward(arguments: tuple[Any, ...], result: Any) -> int:
    dy, x, weight, transposed, mask = (arguments[i] for i in (0, 1, 2, 7, 10))
    count: int = (x if transposed else dy).numel() * prod(weight.shape[1:]) * sum(mask[:2])
    return count


def _product(left: int) -> CallMacs:
    def count(arguments: tuple[Any, ...], result: Any) -> int:
        return int(result.numel() * arguments[left].shape[-1])

    return count


MACS: Mapping[Any, CallMacs] = MappingProxyType(
    {
        aten.convolution.default: _convolution,
        aten.convolution_backward.default: _convolution_backward,
        aten.mkldnn_convolution.default: lambda arguments, result: (
            int(result.numel()) * prod(arguments[1].shape[1:])
        ),
        aten.mm.default: _product(0),
        aten.mm.out: _product(0),
        aten.addmm.default: _product(1),
        aten.addmm.out: _product(1),
        aten.addmm_.default: _product(1),
        aten.bmm.default: _product(0),
        aten.bmm.out: _product(0),
        aten.baddbmm.default: _product(1),
        aten.linear.default: _product(0),
        aten.mv.default: _product(0),
        aten.dot.default: lambda arguments, _result: int(arguments[0].numel()),
    }
)
"""The calls that multiply and accumulate; padding taps are counted, groups are not paid twice."""


class MacCounter(TorchDispatchMode):
    """While active, counts the MACs of every operator call; an `Observer` of an executor.

    `by_direction` and `by_operation` (by the operation's name) add up over passes and steps. What
    was called since the operation before belongs to the operation observed. Calls that are not in
    `MACS` count nothing; `others` has their names.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.by_direction: dict[Direction, int] = defaultdict(int)
        self.by_operation: dict[str, int] = defaultdict(int)
        self.others: set[str] = set()
        self._since = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: nothing is compiled here, and keeping the compiler out would load all of it first."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        # Past autograd, an operator made of others comes here whole.
        with self:
            result = func.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
        result = func(*args, **kwargs)
        count = MACS.get(func)
        if count is None:
            self.others.add(str(func))
        else:
            self._since += count(args, result)
        return result

    def observe(self, operation: Operation, position: int, buffers: Mapping[int, Tensor]) -> None:
        """Put what was called since the last operation down to this one."""
        self.by_direction[operation.direction] += self._since
        self.by_operation[operation.name] += self._since
        self._since = 0
