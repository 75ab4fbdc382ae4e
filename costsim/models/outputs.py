"""One tensor out of a model that returns several, as most libraries' models do.

A model of Hugging Face returns an object with `.logits`, a detector a tuple, a segmenter a
dictionary. What is trained has one output: the one that is named, else `logits` where there is
one, else the first. Which it is is said wherever nobody named it.
"""

import copy
import functools
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from costsim.base.code import others_prints_aside
from costsim.base.errors import InputError, note, shown

PREFERRED = "logits"
"""What is taken where nobody says which, if there is one of that name."""

MOST_DEEP = 4
"""Levels of an output within an output."""


def one_output(model: nn.Module, example_input: Tensor, output: str | None = None) -> nn.Module:
    """`model` as a module that returns one tensor; `model` itself where it does.

    The module is a shallow copy with the same parts, parameters and names. `output` is a path such
    as `logits`, `0` or `heads.1`. Raises `InputError` for a path that leads to no tensor of
    floating point. A model that fails on the example, or is in training mode, is handed on as it
    is: tracing says why it cannot be used.
    """
    if any(module.training for module in model.modules()):
        return model
    try:
        with torch.no_grad(), others_prints_aside():
            returned = model(example_input)
    except (Exception, SystemExit):  # whatever it raises, it raises again where it is traced
        return model
    if isinstance(returned, Tensor) and output is None:
        return model
    paths = dict(_tensors(returned))
    if output is None:
        if not paths:
            raise InputError(f"the model returns {_kind(returned)}, with no floating point in it")
        output = PREFERRED if PREFERRED in paths else next(iter(paths))
        others = [path for path in paths if path != output]
        beside = f" (there are {', '.join(others)} too)" if others else ""
        note(f"the model returns {_kind(returned)}: its {output!r} is taken{beside}")
    elif output not in paths:
        there = ", ".join(paths) or "none"
        raise InputError(f"the model has no output {shown(output)}; there are {there}")
    return _returning(model, output)


def _kind(returned: object) -> str:
    return f"a {type(returned).__name__}"


def _parts(returned: Any) -> Iterator[tuple[str, Any]]:
    """What a structured output holds, by name or number."""
    if isinstance(returned, Mapping):
        yield from ((str(name), part) for name, part in returned.items())
    elif isinstance(returned, tuple) and hasattr(returned, "_fields"):
        yield from zip(returned._fields, returned, strict=True)
    elif isinstance(returned, tuple | list):
        yield from ((str(place), part) for place, part in enumerate(returned))
    elif is_dataclass(returned) and not isinstance(returned, type):
        yield from ((one.name, getattr(returned, one.name)) for one in fields(returned))


def _tensors(returned: Any, prefix: str = "", deep: int = 0) -> Iterator[tuple[str, Tensor]]:
    """The floating-point tensors in an output by their paths, in its own order."""
    for name, part in _parts(returned):
        if isinstance(part, Tensor) and part.is_floating_point():
            yield prefix + name, part
        elif deep < MOST_DEEP:
            yield from _tensors(part, f"{prefix}{name}.", deep + 1)


def picked(returned: Any, path: str) -> Tensor:
    """The tensor at `path` of an output."""
    for name in path.split("."):
        returned = dict(_parts(returned))[name]
    found: Tensor = returned
    return found


def as_given(model: nn.Module) -> nn.Module:
    """The model that `one_output` or `taking_tokens` was given: its own class, inside and out."""
    found = model
    while vars(type(found)).keys() & {"output_path", "token_input"}:
        found = copy.copy(found)
        found.__class__ = type(found).__base__  # type: ignore[assignment]
    return found


def output_of(spec: str) -> str | None:
    """The output that the name of a model says is meant, None where it says none."""
    return spec[:-1].rpartition("[")[2] if spec.endswith("]") else None


def _returning(model: nn.Module, path: str) -> nn.Module:
    """A shallow copy of `model` whose class returns the tensor at `path`."""
    kind = type(model)

    @functools.wraps(kind.forward)
    def forward(self: nn.Module, *given: Any, **named: Any) -> Tensor:
        return picked(kind.forward(self, *given, **named), path)

    found = copy.copy(model)
    found.__class__ = type(kind.__name__, (kind,), {"forward": forward, "output_path": path})
    return found
