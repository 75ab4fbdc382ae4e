"""Records that are read from JSON and written to it, strictly: `Document` is one that is a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError

from costsim.base.errors import InputError, shortened, shown
from costsim.base.files import read_json, write_json
from costsim.device.base import Part

Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]
Listed = BeforeValidator(lambda given: tuple(given) if isinstance(given, list) else given)
"""Takes the list that JSON has for a tuple."""


class Record(Part):
    """Known keys only, no coercion, finite numbers."""

    model_config = ConfigDict(allow_inf_nan=False)


class Document(Record):
    """A record that is a file of its own."""

    schema_name: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        """The whole as one JSON document."""
        return {"schema": self.schema_name, **self.model_dump(mode="json")}

    @classmethod
    def from_json(cls, document: object, source: str) -> Self:
        """What `to_json` wrote; `source` names it in errors.

        Raises `InputError`, in one line with the source and the key, for anything else.
        """
        found = document.get("schema") if isinstance(document, Mapping) else None
        if not isinstance(document, Mapping) or found != cls.schema_name:
            raise InputError(f"{source}: schema: {shown(found)}; allowed is {cls.schema_name}")
        content = {key: value for key, value in document.items() if key != "schema"}
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            parts = [*first["loc"], *filter(None, [first.get("ctx", {}).get("key")])]
            key = shortened(".".join(map(str, parts))) or "document"
            raise InputError(f"{source}: {key}: {shortened(first['msg'], 300)}") from error

    @classmethod
    def read(cls, path: Path) -> Self:
        """The document in `path`; raises `InputError` naming the file and the key."""
        return cls.from_json(read_json(path), str(path))

    def write(self, path: Path) -> None:
        """Write to `path`, whole or not at all."""
        write_json(path, self.to_json())
