"""Pieces of C: identifiers, numbers, arrays."""

import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from costsim.ir.graph import Call, LayerGraph


def title(graph: LayerGraph, call: Call) -> str:
    """A call as errors name it: with its layer, or the one that its input comes from."""
    found = call
    while found.layer is None and found.inputs:
        found = graph[found.inputs[0]]
    if found.layer in (None, call.name):
        return f"call {call.name!r}"
    return f"call {call.name!r} ({'of' if found is call else 'after'} layer {found.layer!r})"


def identifier(name: str) -> str:
    """`name` as part of a C identifier: ASCII, as C99 compilers need it."""
    return re.sub(r"[^0-9A-Za-z_]+", "_", name).strip("_") or "unnamed"


def comment(name: str) -> str:
    """`name` as text inside a C comment or string: printable ASCII that ends neither."""
    plain = re.sub(r"[^ -~]", "?", name)
    return plain.replace("*/", "* /").replace("\\", "/").replace('"', "'").replace("??", "? ?")


def number(value: float) -> str:
    """A float32 as a literal that reads back as the same number."""
    return _literal(float(np.float32(value)))


def _literal(value: float) -> str:
    """Of a number that a float32 is; networks have a million, and numpy formats them slowly."""
    text = f"{value:.9g}"
    if "n" in text:
        return {"inf": "(1.0f / 0.0f)", "-inf": "(-1.0f / 0.0f)"}.get(text, "(0.0f / 0.0f)")
    return (text if "." in text or "e" in text else f"{text}.0") + "f"


def rows(items: Iterable[str], width: int = 96) -> str:
    """Items of an initialiser, wrapped."""
    lines, line = [], ""
    for item in items:
        if line and len(line) + len(item) + 2 > width:
            lines.append(line)
            line = ""
        line += f"{item}, " if line else f"    {item}, "
    return "\n".join([*lines, line]).rstrip(" ,")


def array(c_type: str, name: str, values: NDArray[np.generic]) -> str:
    """The definition of a constant array."""
    if c_type == "float":
        body = rows(map(_literal, values.astype(np.float32).tolist()))
    else:
        body = rows(map(str, values.tolist()))
    body = body.replace("-2147483648", "(-2147483647 - 1)")
    return f"const {c_type} {name}[{len(values)}] = {{\n{body}\n}};\n"


def call(function: str, *arguments: object) -> str:
    """A call as a statement."""
    return f"{function}({', '.join(str(argument) for argument in arguments)});"


def braces(values: Sequence[object]) -> str:
    """An initialiser on one line."""
    return "{" + ", ".join(str(value) for value in values) + "}"
