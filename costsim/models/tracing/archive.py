"""Reading an exported program from a `.pt2` file without running anything the file contains.

`torch.export.load` trusts its file: it unpickles what the file asks it to, evaluates the sizes of
dynamic programs as Python, resolves any name under `torch` as an operator, pastes names into
generated code, and loads compiled libraries. So the archive is read first, by the reader that torch
uses, and refused unless it holds nothing but the plain records of a program with fixed sizes:
raw tensors, sample inputs that the weights-only unpickler accepts, and a graph whose operators are
aten's and whose names are words.
"""

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from costsim.base.errors import InputError, shortened
from costsim.base.files import parse_json, read_file, why
from costsim.models.networks.int8 import MAXIMUM_BYTES, check_unpacked
from costsim.models.tracing.torch_settings import quiet

_RECORDS = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/(version|serialization_id)"
    r"|\.format_version|\.storage_alignment"
    r"|models/model\.json|data/sample_inputs/model\.pt"
    r"|data/(weights|constants)/(model\.pt|(weight|tensor)_\d+|model_(weights|constants)_config\.json)"
)
_OPERATOR = re.compile(r"torch\.ops\.aten\.(?!__)\w+\.(?!__)\w+|_operator\.getitem")
_WORD = re.compile(r"[\w.@]*")
_OLDER = "serialized_exported_program.json"
_LABELS = frozenset({"parameter_name", "buffer_name", "tensor_constant_name", "fqn"})
"""Keys of the names that a module's author gave: what generated code quotes, never pastes."""
_LABEL = re.compile(r"[\w.@/+ -]*")
_FREE_TEXT = frozenset(
    {"stack_trace", "nn_module_stack", "torch_fn", "from_node", "source_fn_stack", "torch_version"}
)
"""Keys of metadata that nothing evaluates."""
_DYNAMIC = frozenset({"as_expr", "expr_str", "as_sym_int", "as_sym_ints", "as_sym_bool"})
_STRUCTURES = frozenset({None, "builtins.tuple", "builtins.list", "builtins.dict"})


def load_program(path: Path) -> ExportedProgram:
    """The program that `torch.export.save` wrote to `path`.

    Raises `InputError` for a missing file, for one that is not such an archive, has dynamic sizes,
    or holds pickled objects, custom operators or compiled code.
    """
    content = read_file(path, MAXIMUM_BYTES)
    if not content.startswith(b"PK"):
        raise InputError(f"{path}: is not a .pt2 archive of torch.export.save")
    try:
        _check_archive(content, path)
        with quiet():
            program = torch.export.load(io.BytesIO(content))
    except InputError:
        raise
    except Exception as error:  # what a damaged file raises depends on where it was cut
        raise InputError(f"{path}: {_reason(content, error)}") from error
    return program


def _reason(content: bytes, error: Exception) -> str:
    """Why it cannot be read, so far as content and error tell."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return "is a .pt2 archive that is damaged or cut short"
    return (
        f"is not a .pt2 archive that torch {torch.__version__} can read ({type(error).__name__}: "
        f"{shortened(why(error))}); was it saved by another version of torch?"
    )


def _check_layout(content: bytes, path: Path) -> None:
    """What an archive says that it holds, before anything of it is unpacked."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        try:
            check_unpacked(archive, len(content))
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        if _OLDER in archive.namelist():
            raise InputError(
                f"{path}: is in the older layout of torch up to 2.7; load it with "
                "torch.export.load and save it again with torch.export.save"
            )


def _check_archive(content: bytes, path: Path) -> None:
    from torch.export.pt2_archive._package import PT2ArchiveReader

    _check_layout(content, path)
    with PT2ArchiveReader(io.BytesIO(content)) as reader:
        names = reader.get_file_names()
        if "models/model.json" not in names:
            raise InputError(f"{path}: holds no exported program named 'model'")
        for name in names:
            if not _RECORDS.fullmatch(name):
                raise InputError(f"{path}: holds {name!r}; only a plain exported program is read")
            if name.endswith(".pt"):
                _check_pickle(reader.read_bytes(name), name, path)
            elif name.endswith("_config.json"):
                _check_payloads(parse_json(reader.read_string(name), f"{path}: {name}"), path)
        _check_program(
            parse_json(reader.read_bytes("models/model.json"), f"{path}: models/model.json"), path
        )


def _check_pickle(record: bytes, name: str, path: Path) -> None:
    if record:
        try:
            torch.load(io.BytesIO(record), map_location="cpu", weights_only=True)
        except Exception as error:
            raise InputError(f"{path}: {name!r} holds more than tensors") from error


def _check_payloads(config: Any, path: Path) -> None:
    for name, payload in config["config"].items():
        stored = str(payload["path_name"])
        if payload["use_pickle"] or not re.fullmatch(r"(weight|tensor)_\d+", stored):
            raise InputError(f"{path}: {name!r} is a pickled object; only tensors are read")
    _check_words(config, path, labelled=True)


def _check_program(document: Any, path: Path) -> None:
    if document.get("range_constraints"):
        _refuse_dynamic(path)
    if document.get("guards_code"):
        raise InputError(f"{path}: holds guards written in Python; export it without them")
    _check_words(document, path)
    for node in document["graph_module"]["graph"]["nodes"]:
        if not _OPERATOR.fullmatch(node["target"]):
            raise InputError(
                f"{path}: calls {node['target']!r}; only operators of torch.ops.aten are read"
            )


def _refuse_dynamic(path: Path) -> None:
    raise InputError(f"{path}: has dynamic sizes; export it without dynamic_shapes")


def _check_words(document: Any, path: Path, labelled: bool = False) -> None:
    """`labelled`: keys are names that a module's author gave."""
    for key, value in _entries(document):
        if key in _DYNAMIC:
            _refuse_dynamic(path)
        if key in ("as_graph", "as_custom_obj", "as_operator"):
            raise InputError(f"{path}: holds a nested program or object; only tensors are read")
        if key in ("in_spec", "out_spec") and isinstance(value, str):
            for inner, kind in _entries(json.loads(value) if value else []):
                if inner == "type" and kind not in _STRUCTURES:
                    raise InputError(f"{path}: passes a {kind}; one tensor is needed")
        allowed = _LABEL if key in _LABELS else _WORD
        free = key in _FREE_TEXT or key in ("in_spec", "out_spec")
        if isinstance(value, str) and not free and not allowed.fullmatch(value):
            raise InputError(f"{path}: the name {value[:40]!r} is not a word")
        if not (_LABEL if labelled else _WORD).fullmatch(key):
            raise InputError(f"{path}: the name {key[:40]!r} is not a word")


def _entries(document: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every (key, value) of nested JSON; the items of a list carry the list's key."""
    left = [(key, document)]
    while left:
        name, value = left.pop()
        yield name, value
        if isinstance(value, dict):
            left += value.items()
        elif isinstance(value, list):
            left += [(name, item) for item in value]
