"""How much of a limit would do, as a person reads it and types it back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costsim.base.units import (
    counted,
    format_bytes,
    parse_bytes,
    parse_joules,
    parse_macs,
    parse_seconds,
)
from costsim.problem.budget import at_least, describe

PARSERS = {
    "memory_bytes": parse_bytes,
    "working_bytes": parse_bytes,
    "macs": parse_macs,
    "latency_s": parse_seconds,
    "energy_j": parse_joules,
}


@given(st.sampled_from(["memory_bytes", "working_bytes", "macs"]), st.integers(0, 10**15))
def test_a_whole_amount_typed_back_is_enough_and_hardly_more(limit: str, amount: int) -> None:
    typed = PARSERS[limit](at_least(limit, amount))
    assert amount <= typed <= amount * 1.001


@given(st.sampled_from(["latency_s", "energy_j"]), st.floats(1e-9, 1e9))
def test_an_amount_typed_back_is_enough_and_hardly_more(limit: str, amount: float) -> None:
    """Not to the last bit, as sums of floats depend on their order."""
    typed = PARSERS[limit](at_least(limit, amount))
    assert amount < typed <= amount * 1.0011


@pytest.mark.parametrize(
    ("limit", "amount", "told"),
    [
        ("memory_bytes", 1048640, "1.001MiB"),
        ("memory_bytes", 655396, "640.1KiB"),
        ("memory_bytes", 640 * 1024, "640KiB"),
        ("memory_bytes", 100, "100B"),
        ("macs", 6_470_001, "6.471MMAC"),
        ("macs", 0, "0MAC"),
        ("latency_s", 0.0125, "12.51ms"),
        ("energy_j", 3.0, "3.001J"),
    ],
)
def test_it_is_told_in_the_units_that_people_use(limit: str, amount: float, told: str) -> None:
    assert at_least(limit, amount) == told


def test_it_is_in_the_unit_of_what_it_is_beside() -> None:
    amount = 700_000
    unit = format_bytes(amount).split()[1]
    assert describe("memory_bytes", amount).endswith(unit)
    assert at_least("memory_bytes", amount).endswith(unit)


def test_one_is_no_plural() -> None:
    assert counted(1, "channel") == "1 channel"
    assert counted(0, "channel") == "0 channels"
    assert counted(1089, "channel") == "1,089 channels"
    assert counted(2, "bias", "biases") == "2 biases"
