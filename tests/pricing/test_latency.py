"""The latency and energy model: its formula, its laws, and the minutes that were published."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costsim.base.errors import InputError
from costsim.device import (
    ELEMENTWISE_RATE,
    ComputeTarget,
    DeviceSpec,
    Interval,
    load_device,
    shipped_devices,
)
from costsim.device.target import Bound, MacRates
from costsim.ir.operators import WORK_KINDS
from costsim.ir.plan import UpdatePlan
from costsim.ir.program import Direction, compile_program
from costsim.ir.step import TrainingStep
from costsim.models.networks.graph import architecture_graph
from costsim.pricing.cost import price

SPECS = {name: load_device(name) for name in shipped_devices()}
TARGETS = {
    f"{name}/{target}": spec.targets[target]
    for name, spec in SPECS.items()
    for target in spec.targets
}
MAC_KINDS = tuple(kind for kind in WORK_KINDS if kind != "elementwise")

targets = st.sampled_from(sorted(TARGETS)).map(TARGETS.__getitem__)
mac_kinds = st.sampled_from(MAC_KINDS)
mac_directions = st.sampled_from(sorted(MacRates.model_fields))
amounts = st.floats(0, 1e12)
bounds = st.sampled_from(["value", "low", "high"])


@pytest.fixture
def pi() -> DeviceSpec:
    return SPECS["pi-zero-2"]


@given(targets, mac_kinds, mac_directions, amounts, amounts)
def test_an_operation_costs_overhead_plus_the_larger_of_work_and_traffic(
    target: ComputeTarget, kind: str, direction: str, macs: float, moved: float
) -> None:
    rate = getattr(getattr(target.throughput, kind), direction).value
    expected = target.overhead.value + max(macs / rate, moved / target.bandwidth.value)
    assert target.operation_seconds(kind, direction, macs, moved) == pytest.approx(expected)


def test_every_direction_of_a_program_has_a_rate() -> None:
    assert set(ELEMENTWISE_RATE) == {direction.value for direction in Direction}


@given(targets, st.sampled_from(sorted(ELEMENTWISE_RATE)), amounts)
def test_elementwise_work_costs_overhead_plus_traffic(
    target: ComputeTarget, direction: str, moved: float
) -> None:
    rate = getattr(target.throughput.elementwise, ELEMENTWISE_RATE[direction]).value
    expected = target.overhead.value + moved / rate
    assert target.operation_seconds("elementwise", direction, 0, moved) == pytest.approx(expected)


@pytest.mark.parametrize("direction", ["loss", "bias_gradient", "accumulate", "keep", "update"])
@pytest.mark.parametrize("kind", MAC_KINDS)
def test_directions_without_macs_cost_the_same_for_every_kind(kind: str, direction: str) -> None:
    for target in TARGETS.values():
        assert target.operation_seconds(kind, direction, 0, 1e5) == target.operation_seconds(
            "elementwise", direction, 0, 1e5
        )


@given(targets, mac_kinds, mac_directions, bounds, amounts, amounts, amounts, amounts)
def test_more_macs_or_more_bytes_never_take_less_time(
    target: ComputeTarget,
    kind: str,
    direction: str,
    bound: Bound,
    macs: float,
    more_macs: float,
    moved: float,
    more_moved: float,
) -> None:
    less = target.operation_seconds(kind, direction, macs, moved, bound)
    more = target.operation_seconds(kind, direction, macs + more_macs, moved + more_moved, bound)
    assert less <= more


@given(
    targets,
    mac_kinds,
    mac_directions,
    bounds,
    st.lists(st.tuples(st.integers(0, 10**12), amounts), min_size=1),
)
def test_an_array_costs_what_its_elements_cost(
    target: ComputeTarget,
    kind: str,
    direction: str,
    bound: Bound,
    work: list[tuple[int, float]],
) -> None:
    macs, moved = np.array([m for m, _ in work]), np.array([b for _, b in work])
    together = target.operation_seconds(kind, direction, macs, moved, bound)
    assert together.shape == macs.shape
    for index, (m, b) in enumerate(work):
        alone = target.operation_seconds(kind, direction, m, b, bound)
        assert isinstance(alone, float)
        assert together[index] == alone


@given(targets, st.sampled_from(WORK_KINDS), mac_directions, amounts, amounts)
def test_the_interval_holds_the_value_and_never_beats_the_peak(
    target: ComputeTarget, kind: str, direction: str, macs: float, moved: float
) -> None:
    macs = 0.0 if kind == "elementwise" else macs
    interval = target.operation_interval(kind, direction, macs, moved)
    assert interval.low <= interval.value <= interval.high
    assert interval.low >= macs / target.peak.fp32.value
    assert interval.low >= moved / target.bandwidth.interval.high


def test_a_total_is_the_sum_of_its_operations() -> None:
    target = TARGETS["jetson-nano/gpu"]
    work = [
        ("pointwise_convolution", "forward", 1e6, 1e5),
        ("elementwise", "forward", 0.0, 1e5),
        ("pointwise_convolution", "forward", 2e6, 1e4),
        ("linear", "update", 0.0, 3e3),
    ]
    total = target.total_seconds(work)
    parts = [target.operation_interval(*operation) for operation in work]
    for end in ("value", "low", "high"):
        assert getattr(total, end) == pytest.approx(math.fsum(getattr(p, end) for p in parts))
    assert target.total_seconds([]) == Interval.exactly(0.0)
    often = [n % 4 for n in range(len(work))]
    repeated = [one for one, times in zip(work, often, strict=True) for _ in range(times)]
    assert target.total_seconds(work, often) == target.total_seconds(repeated)  # to the last bit


@pytest.mark.parametrize(
    ("kind", "direction", "macs", "moved", "words"),
    [
        ("fft", "forward", 1, 1, "'fft'.*depthwise_convolution"),
        ("linear", "sideways", 1, 1, "'sideways'.*forward"),
        ("linear", "forward", -1, 1, "negative"),
        ("linear", "forward", 1, -1, "negative"),
        ("linear", "update", 5, 1, "no rate"),
        ("elementwise", "forward", 5, 1, "no rate"),
    ],
)
def test_work_that_cannot_be_priced_is_an_error(
    kind: str, direction: str, macs: float, moved: float, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        TARGETS["pi-zero-2/cpu"].operation_seconds(kind, direction, macs, moved)


# Intervals.


def test_interval_arithmetic() -> None:
    a, b = Interval(2.0, 1.0, 4.0), Interval(3.0, 2.0, 5.0)
    assert a + b == Interval(5.0, 3.0, 9.0)
    assert a * b == Interval(6.0, 2.0, 20.0)
    assert a * 2 == Interval(4.0, 2.0, 8.0)
    assert Interval.total([a, b, b]) == a + b + b
    assert Interval.from_json(a.to_json()) == a


@pytest.mark.parametrize("ends", [(1.0, 2.0, 3.0), (3.0, 1.0, 2.0), (1.0, 0.0, math.inf)])
def test_an_interval_holds_its_value_and_is_finite(ends: tuple[float, float, float]) -> None:
    with pytest.raises(InputError):
        Interval(*ends)


@pytest.mark.parametrize("document", [{}, {"value": 1.0, "low": 1.0}, {"value": None}])
def test_a_malformed_interval_is_refused(document: dict[str, float]) -> None:
    with pytest.raises(InputError, match="needs value, low and high"):
        Interval.from_json(document)


# Swap.


def test_swap_writes_and_reads_what_ram_cannot_hold(pi: DeviceSpec) -> None:
    assert pi.swap is not None
    excess, passes = 100e6, 2
    seconds = pi.swap_seconds(pi.ram_bytes + excess, passes=passes)
    assert seconds is not None
    read, write = pi.swap.read_bandwidth, pi.swap.write_bandwidth
    assert seconds.value == pytest.approx(passes * (excess / read.value + excess / write.value))
    assert seconds.low < seconds.value < seconds.high


def test_what_fits_does_not_swap() -> None:
    for spec in SPECS.values():
        assert spec.swap_seconds(spec.ram_bytes) == Interval.exactly(0.0)
        assert spec.swap_seconds(1000, available_bytes=1000) == Interval.exactly(0.0)


def test_what_fits_neither_ram_nor_swap_has_no_seconds(pi: DeviceSpec) -> None:
    assert pi.swap is not None
    assert pi.swap_seconds(pi.ram_bytes + pi.swap.size.value + 1) is None
    assert SPECS["stm32f746"].swap_seconds(321 * 1024) is None


# The price of a step that does not fit: tests/test_measurement_limit.py runs one under a limit.


def cramped(size: str, swap: str | None) -> DeviceSpec:
    """The Pi with `size` bytes of RAM for training, all of it, and so much swap."""
    document = SPECS["pi-zero-2"].to_json()
    document["memory"]["ram"]["size"]["value"] = size
    document["memory"]["ram"]["available"]["value"] = 1.0
    document["training_budget"]["memory"]["value"] = "1KiB"
    if swap is None:
        del document["swap"]
    else:
        document["swap"]["size"]["value"] = swap
    return DeviceSpec.from_json(document)


FULL = compile_program(
    architecture_graph("mcunet-5fps", resolution=64),
    UpdatePlan.full(architecture_graph("mcunet-5fps", resolution=64)),
    TrainingStep(),
)


def test_a_step_that_fits_neither_swaps_nor_says_so(pi: DeviceSpec) -> None:
    cost = price(FULL, pi).on_device
    assert cost is not None
    assert cost.fits
    assert cost.swap_s == Interval.exactly(0.0)
    power = pi.target().power.compute.value
    assert cost.energy_j.value == pytest.approx(power * cost.latency_s.value)


def test_a_step_that_does_not_fit_swaps_at_the_card_s_bandwidth() -> None:
    board = cramped("1MiB", "1GiB")
    cost, memory = price(FULL, board).on_device, price(FULL).memory
    assert cost is not None
    assert board.swap is not None
    excess = memory.peak_bytes + memory.frozen_weight_bytes - board.largest_block_bytes
    assert excess > 0
    assert not cost.fits
    assert cost.swap_s is not None
    read, write = board.swap.read_bandwidth.value, board.swap.write_bandwidth.value
    assert cost.swap_s.value == pytest.approx(excess / read + excess / write)
    power = board.target().power
    joules = power.compute.value * cost.latency_s.value + power.memory.value * cost.swap_s.value
    assert cost.energy_j.value == pytest.approx(joules)


@pytest.mark.parametrize("swap", [None, "64KiB"])
def test_a_step_that_fits_neither_ram_nor_swap_is_out_of_memory(swap: str | None) -> None:
    cost = price(FULL, cramped("1MiB", swap)).on_device
    assert cost is not None
    assert not cost.fits
    assert cost.swap_s is None


def test_room_and_need_decide_to_the_byte() -> None:
    memory = price(FULL).memory
    needed = memory.peak_bytes + memory.frozen_weight_bytes
    for room, fits in ((needed, True), (needed - 1, False)):
        cost = price(FULL, cramped(str(room), None)).on_device
        assert cost is not None
        assert cost.fits is fits


# Energy.


def test_energy_is_power_by_state(pi: DeviceSpec) -> None:
    power = pi.target().power
    energy = pi.target().joules(
        Interval.exactly(10.0), Interval.exactly(20.0), Interval.exactly(30.0)
    )
    assert energy.value == pytest.approx(
        10 * power.compute.value + 20 * power.memory.value + 30 * power.idle.value
    )
    assert energy.low == pytest.approx(
        10 * power.compute.low + 20 * power.memory.low + 30 * power.idle.low
    )


def test_published_minutes_on_the_pi_lie_within_the_interval(pi: DeviceSpec) -> None:
    """TinyTrain's 8 to 10 minutes for the sparse methods, 90 for full training, on MCUNet.

    The paper does not say how many images an iteration takes; one hundred a step is assumed, from
    its memory figure for full training, and 15 % of the MACs in depthwise layers.
    """
    images, iterations, depthwise = 100, 40, 0.15
    target = pi.target()

    def step(macs: dict[str, float]) -> Interval:
        return target.total_seconds(
            (kind, direction, share * total * images, 0.0)
            for direction, total in macs.items()
            for kind, share in (
                ("depthwise_convolution", depthwise),
                ("pointwise_convolution", 1 - depthwise),
            )
        )

    def task(macs: dict[str, float], peak_bytes: float) -> tuple[Interval, Interval]:
        swap = pi.swap_seconds(peak_bytes)
        assert swap is not None
        computing, swapping = step(macs) * iterations, swap * iterations
        return computing + swapping, target.joules(computing, swapping)

    forward = 22.45e6
    sparse_s, sparse_j = task(
        {"forward": forward, "input_gradient": 4.0e6, "weight_gradient": 2.51e6}, 1e6 * images
    )
    full_s, full_j = task(
        {"forward": forward, "input_gradient": forward, "weight_gradient": forward}, 906e6
    )
    assert sparse_s.low < 9 * 60 < sparse_s.high
    assert sparse_j.low < 1.2e3 < sparse_j.high
    assert full_s.low < 90 * 60 < full_s.high
    assert full_j.low < 4.4e3 < full_j.high
    # The right order of magnitude, not only a wide interval.
    assert 1 / 4 < sparse_s.value / (9 * 60) < 4
    assert 1 / 4 < full_s.value / (90 * 60) < 4
