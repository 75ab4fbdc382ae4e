"""What all parts of a device file share: strict, frozen, and errors that say what is allowed."""

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Generic, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    WrapSerializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from costsim.base.nearness import hint

V = TypeVar("V")


def refuse(message: str, key: str | None = None) -> PydanticCustomError:
    """The error a validator raises: `message` about `key` of the place being read."""
    # Braces would be read as a template by pydantic.
    text = message.replace("{", "{{").replace("}", "}}")
    return PydanticCustomError("device", text, {"key": key} if key else None)


def first_mistake(
    error: ValidationError,
    whole: str,
    needed: Callable[[tuple[int | str, ...]], str] | None = None,
) -> str:
    """The first mistake as `dotted.key: what is wrong`, and how many more there are.

    `whole` is what a mistake without a key is in; `needed` says what belongs at a missing key.
    """
    errors = error.errors(include_url=False)
    # An unknown key is usually the misspelt cause of a missing one.
    first = min(errors, key=lambda item: item["type"] != "device")
    parts = [str(part) for part in first["loc"] if part != "[key]"]
    if key := first.get("ctx", {}).get("key"):
        parts.append(key)
    given, message = first["input"], first["msg"]
    if first["type"] == "missing":
        message = "missing" if needed is None else f"missing; {needed(first['loc'])} is needed"
    elif first["type"] != "device":
        told = repr(given) if isinstance(given, str | bool | int | float) else type(given).__name__
        message = f"{told}: {message[0].lower()}{message[1:]}"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{'.'.join(parts) or whole}: {message}{more}"


class Part(BaseModel):
    """A mapping of a device file: known keys only, no coercion, immutable once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, cls):
            return data
        allowed = list(cls.model_fields)
        if not isinstance(data, Mapping):
            raise refuse(f"{data!r} is not a mapping; one with {', '.join(allowed)} is needed")
        for key in data:
            if key not in allowed:
                near = hint(key, allowed)
                raise refuse(f"unknown key; {near}allowed are {', '.join(allowed)}", str(key))
        return data


class Table(Mapping[str, V], Generic[V]):
    """An immutable mapping from names to parts, in the order of the file."""

    def __init__(self, items: Mapping[str, V]) -> None:
        self._items = dict(items)

    def __getitem__(self, name: str) -> V:
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return f"Table({self._items!r})"


def _freeze(items: Mapping[str, V]) -> Mapping[str, V]:
    return Table(items)


def _thaw(table: Mapping[str, Any], handler: SerializerFunctionWrapHandler) -> Any:
    return handler(dict(table))


Named = Annotated[Mapping[str, V], AfterValidator(_freeze), WrapSerializer(_thaw)]
"""A mapping of names of the author's choosing to parts; read as a `Table`."""
