"""Which of many cases a default run takes."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def by_default(cases: Iterable[Any], chosen: Collection[Any]) -> list[Any]:
    """Cases for `parametrize`: those that are not `chosen` are slow. A tuple is several arguments.

    For cases that are alike and each take long: what one kind of mistake would do to all is seen
    of a few, what is of one alone in `make slow`.
    """
    cases = list(cases)
    assert set(chosen) <= set(cases)
    return [one if one in chosen else _slow(one) for one in cases]


def _slow(case: Any) -> Any:
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=pytest.mark.slow)
