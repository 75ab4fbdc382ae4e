"""The file of a study, of any kind."""

from pathlib import Path
from typing import Any

from costsim.base.files import resolved
from costsim.studies.engine.cell import C, Study
from costsim.studies.engine.kind import Kind
from costsim.studies.engine.reading import FileReader, read_document


def read_study(path: Path, kind: Kind[C]) -> Study[C]:
    """The study in the YAML file at `path`; paths in it are relative to its folder.

    Raises `InputError` naming the file and the key.
    """
    return parse_study(read_document(path), str(path), kind, folder=resolved(path).parent)


def read_entries(path: Path, kind: Kind[Any]) -> dict[str, Any]:
    """What the YAML file at `path` says under each of the kind's keys. Raises `InputError`."""
    return FileReader(str(path), path.parent).mapping(read_document(path), "", kind.keys)


def parse_study(document: object, source: str, kind: Kind[C], *, folder: Path = Path()) -> Study[C]:
    """The study that a parsed YAML document describes; paths in it are relative to `folder`.

    Raises `InputError` with `source`, the key, what was given and what is allowed.
    """
    return kind.study(document, source, folder)
