"""Swapping as a price, and how many samples a device takes at a time: by hand and by law."""

from dataclasses import replace

import pytest
from graphs import GraphBuilder, graphs, plans
from hypothesis import given, settings
from hypothesis import strategies as st

from costsim.device import DeviceSpec, Interval, load_device
from costsim.ir.graph import LayerGraph
from costsim.ir.plan import UpdatePlan
from costsim.ir.program import compile_program
from costsim.ir.step import TrainingStep
from costsim.models.networks.graph import architecture_graph
from costsim.pricing.accounting.autograd import autograd_memory
from costsim.pricing.cost import price, resident_bytes, step_seconds
from costsim.pricing.micro_batch import largest_micro_batch, program_at
from costsim.pricing.swap import room_bytes, swapping
from costsim.pricing.ways import FITTING, SINGLE, STOCK, Training

PI = load_device("pi-zero-2")


def tiny(ram_bytes: int, swap_bytes: int | None = 4096) -> DeviceSpec:
    """A board with a handful of RAM, that swaps at 100 bytes a second, and 25 out."""
    document = PI.to_json()
    size, available = ("size", "available")
    document["memory"]["ram"][size]["value"] = ram_bytes
    document["memory"]["ram"][available]["value"] = 1.0
    document["training_budget"]["memory"]["value"] = 1
    rate = {"provenance": "estimate", "source": "by hand"}
    document["swap"] = {
        "medium": "a tape",
        "size": {"value": swap_bytes, **rate},
        "read_bandwidth": {"value": 100.0, "low": 50.0, "high": 200.0, **rate},
        "write_bandwidth": {"value": 25.0, "low": 20.0, "high": 50.0, **rate},
    }
    if swap_bytes is None:
        del document["swap"]
    return DeviceSpec.from_json(document)


def two_layers(batch: int = 1) -> LayerGraph:
    """Three channels to four, a ReLU, and four to five; positions 4×4."""
    g = GraphBuilder()
    x = g.relu(g.conv(g.input(batch, 3, 4, 4), 4, bias=False, layer="first"))
    g.conv(x, 5, bias=False, layer="second")
    return g.graph()


def test_what_swaps_goes_out_and_comes_back_once_a_pass() -> None:
    """1,600 bytes of 1,000: 600 over, 24 s to write and 6 s to read, twice."""
    found = swapping(tiny(1000), 1600, passes=2)
    assert found is not None
    assert (found.excess_bytes, found.moved_bytes) == (600, 2 * 2 * 600)
    assert found.latency_s == Interval(2 * (24.0 + 6.0), 2 * (12.0 + 3.0), 2 * (30.0 + 12.0))
    watts = PI.target().power.memory
    assert watts.low is not None
    assert found.energy_j.value == pytest.approx(60 * watts.value)
    assert found.energy_j.low == pytest.approx(30 * watts.low)


def test_what_fits_costs_nothing_and_what_fits_nowhere_has_no_price() -> None:
    fits = swapping(tiny(1000), 1000)
    assert fits is not None
    assert (fits.excess_bytes, fits.latency_s) == (0, Interval.exactly(0.0))
    assert swapping(tiny(1000, 100), 1100) is not None
    assert swapping(tiny(1000, 100), 1101) is None
    assert swapping(tiny(1000, None), 1001) is None


def test_a_step_of_two_layers_swaps_what_it_holds_over_ram() -> None:
    """Weights of 12 and 20 and their gradients, an image of 48, values of 64 and 80, all fp32."""
    graph = two_layers()
    program = compile_program(graph, UpdatePlan.full(graph), TrainingStep())
    peak, held = resident_bytes(program, PI)
    assert held == peak, "nothing is frozen"
    board = tiny(held - 200)
    cost = price(program, board).on_device
    assert cost is not None
    assert cost.swap_s == Interval(200 / 25 + 200 / 100, 200 / 50 + 200 / 200, 200 / 20 + 200 / 50)
    way = Training(UpdatePlan.full(graph), TrainingStep(), 3, board).way("here", program)
    assert way.excess_bytes == 200
    assert way.latency_s is not None
    seconds = step_seconds(program, board.target())
    assert way.latency_s.value == pytest.approx(3 * (seconds.value + 10.0))


def test_every_pass_of_every_step_swaps() -> None:
    """Two steps of two passes: four times what is over RAM, out and back."""
    graph, step = two_layers(), TrainingStep(2, 1)
    training = Training(UpdatePlan.full(graph), step, 2, PI)
    held = training.at(SINGLE, two_layers, 1).held_bytes
    found = replace(training, device=tiny(held - 100)).at(SINGLE, two_layers, 1)
    assert found.swap_s is not None
    assert found.swap_s.value == pytest.approx(2 * 2 * (100 / 25 + 100 / 100))
    program = program_at(two_layers, training.plan, step, 1)
    cost = price(program, tiny(held - 100)).on_device
    assert cost is not None
    assert cost.swap_s is not None
    assert found.swap_s.value == pytest.approx(2 * cost.swap_s.value), "as the step is priced"


def test_frozen_weights_are_live_where_the_device_keeps_them_in_ram() -> None:
    program = compile_program(two_layers(), UpdatePlan(), TrainingStep())
    peak, held = resident_bytes(program, PI)
    assert held - peak == 4 * (3 * 4 + 4 * 5)
    assert resident_bytes(program, load_device("stm32h743")) == (peak, peak)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_more_ram_is_never_slower(data: st.DataObject) -> None:
    graph = data.draw(graphs())
    plan = data.draw(plans(graph))
    program = compile_program(graph, plan, TrainingStep(graph.batch))
    held = resident_bytes(program, PI)[1]
    sizes = sorted(data.draw(st.lists(st.integers(1, 2 * held), min_size=2, max_size=4)))
    training = Training(plan, program.step, 2, tiny(1))
    ways = [replace(training, device=tiny(size, held)).way("so", program) for size in sizes]
    times = [way.latency_s.value for way in ways if way.latency_s is not None]
    joules = [way.energy_j.value for way in ways if way.energy_j is not None]
    assert len(times) == len(sizes)
    assert times == sorted(times, reverse=True)
    assert joules == sorted(joules, reverse=True)


@pytest.mark.parametrize(
    ("allowed", "timed", "room"),
    [(None, False, 1000), (1000, False, 1000), (1001, False, 5096), (1001, True, 1000)],
)
def test_a_step_may_swap_only_where_a_person_allows_more_than_ram(
    allowed: int | None, timed: bool, room: int
) -> None:
    assert room_bytes(tiny(1000), allowed, timed=timed) == room
    assert room_bytes(tiny(1000, None), allowed, timed=timed) == 1000


# How many samples a pass.


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_the_largest_micro_batch_is_the_fastest_of_all_that_fit(data: st.DataObject) -> None:
    batch = data.draw(st.sampled_from([1, 2, 6, 8]))
    step = TrainingStep(batch, optimizer=data.draw(st.sampled_from(["sgd", "adam"])))
    plan = data.draw(plans(two_layers()))
    divisors = [n for n in range(1, batch + 1) if batch % n == 0]
    programs = {n: program_at(two_layers, plan, step, n) for n in divisors}
    held = {n: resident_bytes(program, PI) for n, program in programs.items()}
    board = tiny(data.draw(st.sampled_from(sorted({one for _, one in held.values()} | {1}))))
    limit = data.draw(st.sampled_from([None, *(peak for peak, _ in held.values())]))
    fitting = [
        n
        for n, (peak, in_ram) in held.items()
        if in_ram <= board.largest_block_bytes and (limit is None or peak <= limit)
    ]
    found = largest_micro_batch(two_layers, plan, step, board, limit)
    assert found == max(fitting, default=None)
    if fitting:
        seconds = {n: step_seconds(programs[n], board.target()).value for n in fitting}
        assert seconds[found] == min(seconds.values())


# Full training as published: MCUNet's minutes were fitted, those of the other two were not.


@pytest.mark.parametrize(
    ("network", "minutes"), [("mcunet-5fps", 90), ("mbv2-w0.35", 104), ("proxyless-w0.3", 75)]
)
def test_full_training_on_the_pi_as_published(network: str, minutes: float) -> None:
    graph = architecture_graph(network, batch=100, batch_norm=True)
    full = UpdatePlan.full(graph)
    stock = Training(full, TrainingStep(100, optimizer="adam"), 40, PI).stock(graph)
    assert stock.name == STOCK
    assert stock.held_bytes == autograd_memory(graph, full, optimizer_states=2).total_bytes
    assert stock.latency_s is not None
    assert stock.swap_s is not None
    assert stock.swap_s.value > stock.latency_s.value / 2, "it swaps for most of its time"
    assert stock.latency_s.value == pytest.approx(60 * minutes, rel=0.2)
    assert stock.latency_s.low < 60 * minutes < stock.latency_s.high


def test_full_training_image_by_image_does_not_swap() -> None:
    def at(batch: int) -> LayerGraph:
        return architecture_graph("mcunet-5fps", batch=batch)

    training = Training(UpdatePlan.full(at(1)), TrainingStep(100, optimizer="adam"), 40, PI)
    alone, fitting = training.at(SINGLE, at, 1), training.fitting(at)
    assert fitting is not None
    assert (fitting.name, fitting.samples_a_pass) == (FITTING, 50)
    for way in (alone, fitting):
        assert way.latency_s is not None
        assert way.excess_bytes == 0
    assert alone.latency_s is not None
    assert alone.latency_s.value == pytest.approx(25 * 60, rel=0.02)
    assert fitting.latency_s is not None
    assert fitting.latency_s.value < alone.latency_s.value
