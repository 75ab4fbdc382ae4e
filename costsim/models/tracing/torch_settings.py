"""Settings that hold while torch traces or reads a program."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import torch
from torch import nn

from costsim.base.code import others_prints_aside


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing is written: errors say enough, and stdout belongs to results.

    torch warns of its own deprecations while it exports, and prints the graph so far when it
    fails; what it has to say about the model, it says again when the model runs. What the model
    itself prints goes to stderr.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            others_prints_aside(),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@contextlib.contextmanager
def plain_attention(model: nn.Module) -> Iterator[None]:
    """Without fused attention: torch's own, one opaque operator where weights are frozen, and
    that of Hugging Face's models, which is masked while it is traced, though by nothing.

    Both compute the same as the plain product of queries and keys that is traced instead.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    kept = [(one, vars(one)[_KIND]) for one in _configurations(model)]
    for one, _ in kept:
        setattr(one, _KIND, "eager")
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for one, kind in kept:
            setattr(one, _KIND, kind)


_KIND = "_attn_implementation_internal"
"""Where Hugging Face's configurations keep how attention is computed."""


def _configurations(model: nn.Module) -> list[object]:
    """Those of a model's parts that say how attention is computed."""
    found = {id(one): one for part in model.modules() if (one := getattr(part, "config", None))}
    return [one for one in found.values() if _KIND in getattr(one, "__dict__", ())]
