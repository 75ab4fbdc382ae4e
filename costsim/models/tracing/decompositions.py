"""What PyTorch makes of its operators that are written as others."""

from collections.abc import Iterable
from functools import cache
from typing import Any

import torch


def decompositions(operators: Iterable[Any]) -> dict[Any, Any]:
    """Of those that have one, by operator: a table for `run_decompositions`."""
    operators = list(operators)
    listed = _listed()
    if any(one not in listed and getattr(one, "namespace", "aten") != "aten" for one in operators):
        listed = torch.export.default_decompositions()  # somebody may have registered it since
    return {one: listed[one] for one in operators if one in listed}


@cache
def _listed() -> Any:
    """All there are; PyTorch takes a tenth of a second to list them."""
    return torch.export.default_decompositions()
