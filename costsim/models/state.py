"""A checkpoint as people save them, put on a module: wrappings, prefixes, heads of another size.

What does not fit exactly is either refused, beside the nearest key that is there, or left out and
said; nothing else of a file is ever passed over.
"""

import difflib
from collections.abc import Collection, Mapping
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn

from costsim.base.errors import InputError, note, shown
from costsim.models.networks.tensors import read_state

PREFIXES = ("module.", "model.", "_orig_mod.")
"""Of names in checkpoints of `DataParallel`, of trainers that hold the model, of `compile`."""

MOST_PREFIXES = 3
"""One within the other."""


def load_state(module: nn.Module, path: Path) -> str:
    """Load the state dict at `path` into `module`; what of it was left out, empty if nothing.

    Names may all stand behind one of `PREFIXES`. The last layer may be of another size, or be no
    part of the model: a head for other classes stays as the model made it, which is said. A
    parameter under several names (tied weights) may be there under one of them, as safetensors
    keeps it; several must agree. Tensors of whole numbers are no weights: of a quantised network
    they mean nothing without their scales. Raises `InputError` naming a key that does not fit.
    """
    wanted = module.state_dict(keep_vars=True)
    state = _behind_prefixes(dict(read_state(path)), wanted, path)
    left_out = _foreign_head(state, wanted, path) + _resized_head(state, wanted)
    for key in left_out:
        state.pop(key)
    _check_fit(state, wanted, frozenset(left_out), path)
    module.load_state_dict(state, strict=not left_out)
    if not left_out:
        return ""
    names = ", ".join(left_out)
    note(f"{path}: left out {names}, a head for other classes; the model's own stays as it is")
    return f"but for {names}"


def _behind_prefixes(
    state: dict[str, Tensor], wanted: Collection[str], path: Path
) -> dict[str, Tensor]:
    """`state` by the names that the model has, where prefixes alone are in the way."""
    chains = (
        "".join(chain) for n in range(MOST_PREFIXES + 1) for chain in product(PREFIXES, repeat=n)
    )
    best, most = "", -1
    for chain in chains:  # the shortest of those that do
        hits = sum(key.removeprefix(chain) in wanted for key in state)
        if hits > most:
            best, most = chain, hits
    bare = {key.removeprefix(best): tensor for key, tensor in state.items()}
    if not best or len(bare) < len(state):
        return state
    note(f"{path}: names in it begin with {best!r}, which the model's do not: taken off")
    return bare


def _layer(key: str) -> str:
    return key.rpartition(".")[0]


def _foreign_head(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path
) -> list[str]:
    """The names of a last layer in the file that the model has not; `InputError` for others."""
    foreign = [key for key in state if key not in wanted]
    if not foreign:
        return []
    layers = {_layer(key) for key in foreign}
    last = list(state)[-len(foreign) :] == foreign
    if len(layers) == 1 and last and not any(_layer(key) in layers for key in wanted):
        weights = [key for key in foreign if key.endswith(".weight")]
        whole = all(key.endswith((".weight", ".bias")) for key in foreign)
        if whole and len(weights) == 1 and state[weights[0]].ndim in (2, 4):
            return foreign
    raise InputError(
        f"{path}: {shown(foreign[0])} does not belong to the model{_nearest(foreign[0], wanted)}"
    )


def _resized_head(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """The names of one layer that differs from the model's in its outputs alone, if none other
    differs in anything: had it been another layer, the one after it would differ too."""
    differ = [key for key in wanted if key in state and state[key].shape != wanted[key].shape]
    heads = all(
        state[key].ndim == wanted[key].ndim > 0 and state[key].shape[1:] == wanted[key].shape[1:]
        for key in differ
    )
    layers = {_layer(key) for key in differ}
    whole = [key for key in wanted if _layer(key) in layers] == differ
    matrix = any(key.endswith(".weight") and wanted[key].ndim > 1 for key in differ)
    return differ if len(layers) == 1 and heads and whole and matrix else []


def _check_fit(
    state: dict[str, Tensor], wanted: Mapping[str, Tensor], left_out: Collection[str], path: Path
) -> None:
    """Raise `InputError` unless `state`, completed by tied names, is what the model wants."""
    tied: dict[int, list[str]] = {}
    for key, tensor in wanted.items():
        tied.setdefault(id(tensor), []).append(key)
    missing = [
        key
        for key, tensor in wanted.items()
        if key not in left_out and not any(name in state for name in tied[id(tensor)])
    ]
    if missing:
        more = f" (and {len(missing) - 1:,} more)" if len(missing) > 1 else ""
        raise InputError(
            f"{path}: {missing[0]!r} of the model is missing{_nearest(missing[0], state)}{more}"
        )
    for key, tensor in wanted.items():
        if key not in left_out:
            first = next(name for name in tied[id(tensor)] if name in state)
            _check_tensor(path, key, state.setdefault(key, state[first]), tensor)
            if not torch.equal(state[key].float(), state[first].float()):
                raise InputError(
                    f"{path}: {first!r} and {key!r} are one parameter of the model and differ"
                )


def _check_tensor(path: Path, key: str, found: Tensor, wanted: Tensor) -> None:
    if found.shape != wanted.shape:
        raise InputError(
            f"{path}: {key!r} has shape {tuple(found.shape)}; the model needs {tuple(wanted.shape)}"
        )
    if wanted.is_floating_point() != found.is_floating_point() or found.is_complex():
        scales = "" if found.is_floating_point() else _INT8
        raise InputError(
            f"{path}: {key!r} is of {found.dtype}; the model needs {wanted.dtype}{scales}"
        )
    if not torch.isfinite(found.float()).all():
        raise InputError(f"{path}: {key!r} has values that are NaN or infinite")


_INT8 = " (weights of an int8 network? its scales are needed too)"


def _nearest(key: str, there: Collection[str]) -> str:
    """The name most like `key` of those that are there, for a message."""
    found = difflib.get_close_matches(key, list(there), n=1, cutoff=0.5)
    ends = [name for name in there if name.endswith(f".{key}") or key.endswith(f".{name}")]
    nearest = next(iter(ends or found), None)
    return "" if nearest is None else f"; the nearest there is {shown(nearest)}"
