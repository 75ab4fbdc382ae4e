"""The page that says what may stand in a device file, made from the schema itself."""

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from costsim.device.base import Part
from costsim.device.quantity import INTERVAL_FACTORS, Quantity
from costsim.device.spec import SCHEMA, DeviceSpec

_FACTORS = ", ".join(f"{name} a factor of {f:g}" for name, f in INTERVAL_FACTORS.items())

HEAD = f"""# What stands in a device file

This page is what `costsim devices --schema` prints, made from the schema `{SCHEMA}` itself.

A number is a mapping: `value` with its unit, `provenance` (datasheet, published, calibrated or
estimate), `source` in words, and, where you know better, `low` and `high`. A bare value such as
`192KiB` is an estimate that nobody vouches for. A rate without a range of its own gets one by where
it comes from: {_FACTORS} either way.

`costsim devices --new NAME --like stm32f746` writes a file to start from, and `costsim devices
FILE` names all mistakes of one at once.
"""


def schema_page() -> str:
    """The page, in Markdown."""
    parts = list(dict.fromkeys(_parts(DeviceSpec)))
    tables = ["\n".join(_table(part)) for part in parts]
    return "\n\n".join((HEAD.rstrip(), *tables)) + "\n"


def _parts(part: type[Part]) -> Iterator[type[Part]]:
    """A part and those in it, each where it is first met."""
    yield part
    for field in part.model_fields.values():
        for inner in _classes(field.annotation):
            if issubclass(inner, Part) and not issubclass(inner, Quantity):
                yield from _parts(inner)


def _table(part: type[Part]) -> Iterator[str]:
    doc = (part.__doc__ or "").strip()
    yield f"## {_title(part)}"
    yield ""
    yield "\n".join(line.strip() for line in doc.splitlines())
    yield ""
    yield "| key | what | needed |"
    yield "|---|---|---|"
    for name, field in part.model_fields.items():
        needed = "yes" if field.is_required() else "no"
        yield f"| `{name}` | {_what(field.annotation)} | {needed} |"


def _title(part: type[Part]) -> str:
    return "The file" if part is DeviceSpec else f"`{part.__name__}`"


def _classes(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type):
        yield annotation
    for inner in get_args(annotation):
        if not isinstance(inner, str):
            yield from _classes(inner)


def _what(annotation: Any) -> str:
    """What belongs at a key, for a person."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _what(inside[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inside)
    if origin in (Union, types.UnionType):
        return " or ".join(_what(one) for one in inside if one is not type(None))
    classes = [one for one in _classes(annotation) if issubclass(one, Part)]
    if origin is tuple:
        return "a list of " + _what(inside[0])
    if origin is not None and classes:
        return f"names of your choosing, each {_of(classes[0])}"
    if classes:
        return _of(classes[0])
    return {"str": "text", "int": "a whole number", "float": "a number"}.get(
        getattr(annotation, "__name__", ""), "a value"
    )


def _of(part: type[Part]) -> str:
    if issubclass(part, Quantity):
        units = ", ".join(unit for unit in part.scales if unit)
        told = f"a number with one of {units}" if units else "a plain number"
        return f"{told}: `{part.example}`"
    return f"`{part.__name__}` below"
