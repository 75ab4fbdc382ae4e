"""Weights that come with the library; the README beside them says how they were made."""

from importlib import resources
from pathlib import Path

RANDOM = Path("random")
"""Given as weights: none at all, but a network initialised from the seed."""


def shipped_weights(name: str) -> Path | None:
    """The file of the built-in network `name`; None for a network without one."""
    path = Path(str(resources.files(__name__).joinpath(f"{name}.safetensors")))
    return path if path.is_file() else None
