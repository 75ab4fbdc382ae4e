"""A value of the library as a part of a plan file: its fields are the keys, said once."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from pydantic import BeforeValidator, ConfigDict, GetCoreSchemaHandler, create_model
from pydantic_core import CoreSchema, core_schema

from costsim.base.errors import InputError
from costsim.device.base import Part, refuse

Listed = BeforeValidator(lambda given: tuple(given) if isinstance(given, list) else given)


class Record(Part):
    """A mapping of a plan file: known keys only, no coercion, finite numbers."""

    model_config = ConfigDict(allow_inf_nan=False)


@dataclass(frozen=True)
class ByFields:
    """How a dataclass is read: `Annotated[Recipe, ByFields()]` is a mapping of all its fields.

    Each has the type that the dataclass gives it; which values are allowed is the dataclass's to
    refuse when it is made.
    """

    def __get_pydantic_core_schema__(self, kind: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        hints = get_type_hints(kind)
        names = [field.name for field in fields(kind)]
        keys: Mapping[str, Any] = {name: (_key(hints[name]), ...) for name in names}
        record = create_model(kind.__name__, __base__=Record, **keys)

        def made(read: Record) -> Any:
            try:
                return kind(**{name: getattr(read, name) for name in names})
            except InputError as error:
                raise refuse(str(error)) from error

        return core_schema.no_info_after_validator_function(
            made,
            handler.generate_schema(record),
            serialization=core_schema.plain_serializer_function_ser_schema(asdict),
        )


def _key(hint: Any) -> Any:
    """What is read for a field of this type: a list for a tuple, a mapping for a value."""
    if get_origin(hint) is tuple and get_args(hint)[1:] == (...,):
        return Annotated[hint, Listed]
    return Annotated[hint, ByFields()] if is_dataclass(hint) else hint
