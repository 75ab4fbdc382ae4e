"""The name that was probably meant."""

import pytest
from costsim.solvers import SOLVERS
from hypothesis import given
from hypothesis import strategies as st

from costsim.base.errors import InputError
from costsim.base.nearness import hint, nearest

NAMES = ("exact", "greedy", "ilp-cbc", "mcunet-5fps", "mbv2-w0.35", "TinyTrain (exact)")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("exat", "exact"),
        ("GREEDY", "greedy"),
        ("mbv2", "mbv2-w0.35"),
        ("mcunet-5", "mcunet-5fps"),
        ("tinytrain", "TinyTrain (exact)"),
        ("m", None),  # two begin so, and one letter says nothing
        ("qqqq", None),
        ("", None),
    ],
)
def test_what_is_near_is_meant(typed: str, meant: str | None) -> None:
    assert nearest(typed, NAMES) == meant


@given(st.text(), st.lists(st.text(min_size=1), max_size=5))
def test_only_a_known_name_is_ever_meant(typed: str, known: list[str]) -> None:
    near = nearest(typed, known)
    assert near is None or near in known
    assert (hint(typed, known) == "") == (near is None)


@given(st.sampled_from(NAMES))
def test_a_known_name_means_itself(name: str) -> None:
    assert nearest(name, NAMES) == name


def test_a_registry_says_what_was_meant() -> None:
    with pytest.raises(InputError, match=r"^solver 'gredy' is unknown; did you mean 'greedy'\? kn"):
        SOLVERS.check("gredy")
    with pytest.raises(InputError, match=r"^solver 'zzz' is unknown; known are greedy"):
        SOLVERS.check("zzz")
