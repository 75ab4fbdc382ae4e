"""Models of tokens: whole numbers that choose rows of a table.

A sample is floating point everywhere else, and so are tokens here, exactly; the model itself is
given whole numbers.
"""

import copy
import functools
from typing import Any

import torch
from torch import Tensor, nn

from costsim.base.errors import InputError
from costsim.models.inputs import vocabulary_of


def taking_tokens(model: nn.Module) -> nn.Module:
    """`model` as a module that takes tokens `[N, length]` as floating point; itself, if of others.

    The module is a shallow copy with the same parts, parameters and names. It raises `InputError`
    for what is no token of the model's vocabulary, where that is known.
    """
    size = vocabulary_of(model)
    return model if size is None else whole_numbers_in(model, size)


def whole_numbers_in(model: nn.Module, size: int | None = None) -> nn.Module:
    """The same of a model that says nothing of its vocabulary, or that `size` is it."""
    kind = type(model)
    if "token_input" in vars(kind):
        return model

    @functools.wraps(kind.forward)
    def forward(self: nn.Module, tokens: Tensor, *given: Any, **named: Any) -> Any:
        return kind.forward(self, as_tokens(tokens, size), *given, **named)

    found = copy.copy(model)
    found.__class__ = type(kind.__name__, (kind,), {"forward": forward, "token_input": True})
    return found


def as_tokens(values: Tensor, size: int | None) -> Tensor:
    """int64 of the same shape; raises `InputError` for what is no token from 0 to `size` - 1."""
    tokens = values.to(torch.int64)
    if torch.compiler.is_exporting():
        return tokens
    if values.is_floating_point() and not bool((tokens == values).all()):
        wrong = values[tokens != values][0].item()
        raise InputError(f"the model takes tokens, which are whole numbers; a sample has {wrong:g}")
    least, most = map(int, tokens.aminmax()) if tokens.numel() else (0, 0)
    if size is not None and (least < 0 or most >= size):
        foreign = least if least < 0 else most
        raise InputError(f"a sample has the token {foreign}; the model's are 0 to {size - 1}")
    return tokens


def drawn_tokens(size: int, shape: tuple[int, ...], seed: int) -> Tensor:
    """Tokens float32 `[N, length]` to trace with, drawn evenly."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(size, shape, generator=generator).float()
