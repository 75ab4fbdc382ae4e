"""Waiting for something to happen, for as long as a slow machine may need."""

import time
from collections.abc import Callable

PATIENCE_S = 600.0
"""Two processes that import torch at once take minutes where a machine is busy with others."""


def until(condition: Callable[[], object], seconds: float = PATIENCE_S) -> None:
    """Return once `condition` holds; fail where it does not come to."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:g} s in vain"
        time.sleep(0.01)
