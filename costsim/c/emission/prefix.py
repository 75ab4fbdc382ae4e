"""Another prefix for everything that is of one model, so that several go into one program."""

import re
from collections.abc import Mapping

from costsim.base.errors import InputError, shown

DEFAULT = "costsim"
_OWN = re.compile(r"\b(?:costsim|COSTSIM)_\w+\b(?!\.json)")
_SHARED_FILES = ("costsim_kernels.c", "costsim_kernels.h")
_KEPT_NAMES = ("costsim_model.json", "costsim_plan.json")


def check_prefix(prefix: str) -> None:
    """Raise `InputError` for what no C identifier begins with, or everybody's would."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,30}", prefix) or prefix.startswith("costsim_"):
        raise InputError(
            f"prefix {shown(prefix)}: allowed are lower-case letters, digits and underscores, a "
            "letter first, at most 31 in all, and not costsim_ (of the kernels, which models share)"
        )


def prefixed(files: Mapping[str, str | bytes], prefix: str) -> dict[str, str | bytes]:
    """Emitted `files` with `prefix` for `costsim` in all names that are of the model alone.

    Kernels, which are the same for every model, keep theirs, so that one of them does for all.
    """
    if prefix == DEFAULT:
        return dict(files)
    shared = set(re.findall(r"\b(?:costsim|COSTSIM)_\w+", str(files["costsim_kernels.h"])))
    shared |= {"costsim_kernels", "costsim_shared", "COSTSIM_NEEDED"}

    def renamed(found: re.Match[str]) -> str:
        name = found[0]
        if name in shared:
            return name
        return name.replace("costsim", prefix, 1).replace("COSTSIM", prefix.upper(), 1)

    result: dict[str, str | bytes] = {}
    for file, content in files.items():
        if file in _SHARED_FILES or isinstance(content, bytes):
            result[file] = content
            continue
        own = file if file in _KEPT_NAMES else file.replace("costsim_", f"{prefix}_")
        result[own] = _OWN.sub(renamed, content)
    return result
