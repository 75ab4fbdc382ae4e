"""Packages that only some capabilities need: found missing before anything else is done.

`EXTRAS` says of each extra what it brings, by the names that are imported. Looking for a package
imports nothing, so that a command can ask at once.
"""

import importlib.util
from collections.abc import Mapping

from costsim.base.errors import InputError

EXTRAS: Mapping[str, tuple[str, ...]] = {
    "cluster": ("distributed",),
    "emulator": ("unicorn", "elftools", "capstone"),
    "explore": ("starlette", "uvicorn"),
    "hub": ("datasets",),
    "serial": ("serial", "elftools"),
    "ssh": ("asyncssh",),
    "tensorboard": ("tensorboard",),
}
"""The modules of each extra of `pyproject.toml`; `emulator` brings a compiler too, of which there
are others."""

PACKAGES = {"elftools": "pyelftools", "serial": "pyserial"}
"""What a package is called where its module is called otherwise."""


def require(extra: str, what: str, *only: str) -> None:
    """Raise `InputError` that names the extra where a module of it is missing; `what` needs it.

    With `only`, one of those modules alone.
    """
    for module in only or EXTRAS[extra]:
        if importlib.util.find_spec(module) is None:
            raise InputError(
                f'{what} needs pip install "costsim[{extra}]" '
                f"({PACKAGES.get(module, module)} is missing)"
            )
