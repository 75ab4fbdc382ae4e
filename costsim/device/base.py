"""What all parts of a device file share: strict, frozen, and errors that say what is allowed."""

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Generic, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    SerializerFunctionWrapHandler,
    ValidationError,
    WrapSerializer,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

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
    first, *others = mistakes(error, whole, needed)
    return f"{first} (and {len(others)} more)" if others else first


def mistakes(
    error: ValidationError,
    whole: str,
    needed: Callable[[tuple[int | str, ...]], str] | None = None,
) -> tuple[str, ...]:
    """All of them, each as `dotted.key: what is wrong`; see `first_mistake`."""
    errors = error.errors(include_url=False)
    # An unknown key is usually the misspelt cause of a missing one.
    ordered = sorted(errors, key=lambda item: item["type"] != "device")
    return tuple(dict.fromkeys(_told(item, whole, needed) for item in ordered))


def _told(
    item: ErrorDetails, whole: str, needed: Callable[[tuple[int | str, ...]], str] | None
) -> str:
    parts = [str(part) for part in item["loc"] if part != "[key]"]
    if key := item.get("ctx", {}).get("key"):
        parts.append(key)
    message = item["msg"]
    if item["type"] == "missing":
        message = "missing" if needed is None else f"missing; {needed(item['loc'])} is needed"
    elif item["type"] != "device":
        message = _sentence(item)
    return f"{'.'.join(parts) or whole}: {message}"


def _sentence(item: ErrorDetails) -> str:
    """What pydantic itself says is wrong, and with what."""
    given, message = item["input"], item["msg"]
    told = repr(given) if isinstance(given, str | bool | int | float) else type(given).__name__
    return f"{told}: {message[0].lower()}{message[1:]}"


class Part(BaseModel):
    """A mapping of a device file: known keys only, no coercion, immutable once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    @model_validator(mode="wrap")
    @classmethod
    def _known_keys(cls, data: Any, read: ModelWrapValidatorHandler[Self]) -> Self:
        """Unknown keys are told beside all other mistakes, not instead of them."""
        if isinstance(data, cls):
            return data
        data, allowed = cls._written_out(data), list(cls.model_fields)
        if not isinstance(data, Mapping):
            raise refuse(f"{data!r} is not a mapping; one with {', '.join(allowed)} is needed")
        unknown = [_unknown(key, data, allowed) for key in data if key not in allowed]
        if not unknown:
            return read(data)
        found: list[InitErrorDetails] = []
        try:
            read({key: value for key, value in data.items() if key in allowed})
        except ValidationError as error:
            found = [_again(item) for item in error.errors(include_url=False)]
        raise ValidationError.from_exception_data(cls.__name__, [*unknown, *found])

    @classmethod
    def _written_out(cls, data: Any) -> Any:
        """What was given as the mapping that it is short for; most parts have no short form."""
        return data


def _unknown(key: object, data: object, allowed: list[str]) -> InitErrorDetails:
    near = hint(str(key), allowed)
    told = refuse(f"unknown key; {near}allowed are {', '.join(allowed)}", str(key))
    return InitErrorDetails(type=told, loc=(), input=data)


def _again(item: ErrorDetails) -> InitErrorDetails:
    """One mistake that pydantic told, to be told by it again."""
    if item["type"] == "missing":
        return InitErrorDetails(type="missing", loc=item["loc"], input=item["input"])
    told = item["msg"]
    if item["type"] != "device":
        told = _sentence(item)
    return InitErrorDetails(
        type=refuse(told, item.get("ctx", {}).get("key")), loc=item["loc"], input=item["input"]
    )


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
