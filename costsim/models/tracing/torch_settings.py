"""Settings that hold while torch traces or reads a program."""

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator

import torch


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
            contextlib.redirect_stdout(sys.stderr),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """Without torch's fused attention, which it takes for frozen weights: one opaque operator."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
