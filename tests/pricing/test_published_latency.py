"""Seconds and joules that others measured on boards, predicted from the device files."""

from dataclasses import dataclass

import pytest

from costsim.device import Interval, load_device
from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.ir.program import compile_program
from costsim.ir.step import BitWidths, TrainingStep
from costsim.models.networks.graph import architecture_graph
from costsim.pricing.accounting.autograd import autograd_memory
from costsim.pricing.accounting.sparse_update import SCHEMES, scheme_plan
from costsim.pricing.cost import price, step_seconds

# TinyTrain (ICML 2024), Raspberry Pi Zero 2, MCUNet: the whole adaptation.

ITERATIONS, IMAGES = 40, 100
"""Forty iterations are the paper's; images an iteration are those of its memory figure."""

MIB = 2**20


@dataclass(frozen=True)
class Row:
    """What the paper prints of one method."""

    minutes: float
    kilojoules: float


@dataclass(frozen=True)
class Training:
    """What all iterations are predicted to take."""

    latency_s: Interval
    energy_j: Interval


PUBLISHED = {
    "full": Row(90, 4.4),
    "last layer": Row(8, 1.0),
    "tinytl": Row(47, 2.3),
    "sparse update": Row(10, 1.3),
    "tinytrain": Row(9, 1.2),
}

GRAPH = architecture_graph("mcunet-5fps", batch=IMAGES, batch_norm=True)


def whole(layer: str, channels: int) -> ChannelSubset:
    return ChannelSubset(layer, "output", tuple(range(channels)))


def plans() -> dict[str, UpdatePlan]:
    scheme = next(s for s in SCHEMES if (s.network, s.size_kb) == ("mcunet-5fps", 99))
    folded = scheme_plan(architecture_graph("mcunet-5fps", batch=IMAGES), scheme)
    with_bias = frozenset(name for name, layer in GRAPH.layers.items() if layer.bias)
    return {
        "full": UpdatePlan.full(GRAPH),
        "last layer": UpdatePlan((whole("blocks.13.project", 160),)),
        "tinytl": UpdatePlan((), with_bias),
        "sparse update": UpdatePlan(folded.subsets, frozenset(f"{n}_norm" for n in folded.biases)),
        # What `costsim plan --device jetson-nano` chooses: 15 % of the backward MACs.
        "tinytrain": UpdatePlan(
            (
                whole("blocks.10.expand", 123),
                whole("blocks.10.depthwise", 240),
                whole("blocks.11.depthwise", 384),
                whole("blocks.12.depthwise", 6),
                whole("blocks.13.depthwise", 576),
            )
        ),
    }


def predicted() -> dict[str, Training]:
    """Every method on the board; memory of full training is what stock PyTorch keeps of it."""
    pi = load_device("pi-zero-2")
    target = pi.target()
    found = {}
    for method, plan in plans().items():
        program = compile_program(GRAPH, plan, TrainingStep(batch=IMAGES))
        step = step_seconds(program, target)
        # The sparse methods sum their gradients over the images one by one, in 1 or 2 MB.
        peak = 2 * MIB
        if method == "full":
            peak = autograd_memory(GRAPH, plan).total_bytes
        if method == "tinytl":
            # Its lite residual modules are not published for this network: their MACs and the
            # memory are the paper's (26.4 M backward, 542 MB).
            macs = 26.4e6 * IMAGES - price(program).macs.backward
            assert 0 < macs < 0.3 * 26.4e6 * IMAGES
            step = step + target.operation_interval(
                "pointwise_convolution", "weight_gradient", macs, 0
            )
            peak = 542 * MIB
        swap = pi.swap_seconds(peak)
        assert swap is not None
        computing, swapping = step * ITERATIONS, swap * ITERATIONS
        found[method] = Training(computing + swapping, target.joules(computing, swapping))
    return found


PREDICTED = predicted()


@pytest.mark.parametrize("method", PUBLISHED)
def test_minutes_and_joules_on_the_pi(method: str) -> None:
    row, task = PUBLISHED[method], PREDICTED[method]
    assert task.latency_s.value == pytest.approx(60 * row.minutes, rel=0.25)
    assert task.energy_j.value == pytest.approx(1e3 * row.kilojoules, rel=0.25)
    assert task.latency_s.low < 60 * row.minutes < task.latency_s.high
    assert task.energy_j.low < 1e3 * row.kilojoules < task.energy_j.high


def test_order_of_the_methods_on_the_pi() -> None:
    by_minutes = sorted(PUBLISHED, key=lambda method: PUBLISHED[method].minutes)
    assert by_minutes == sorted(PREDICTED, key=lambda method: PREDICTED[method].latency_s.value)
    by_joules = sorted(PUBLISHED, key=lambda method: PUBLISHED[method].kilojoules)
    assert by_joules == sorted(PREDICTED, key=lambda method: PREDICTED[method].energy_j.value)


def test_full_training_against_tinytrain_on_the_pi() -> None:
    full, sparse = PREDICTED["full"], PREDICTED["tinytrain"]
    assert full.latency_s.value / sparse.latency_s.value == pytest.approx(90 / 9, rel=0.15)
    assert full.energy_j.value / sparse.energy_j.value == pytest.approx(4.4 / 1.2, rel=0.15)


def test_full_training_swaps_for_most_of_its_time() -> None:
    """A batch of 100 in stock PyTorch needs 0.9 GB of 512 MB; the sparse methods need none."""
    pi = load_device("pi-zero-2")
    needed = autograd_memory(GRAPH, UpdatePlan.full(GRAPH)).total_bytes
    assert needed == pytest.approx(906 * MIB, rel=0.02)  # the paper's figure
    assert needed > pi.memory["ram"].size_bytes
    swap = pi.swap_seconds(needed)
    assert swap is not None
    assert ITERATIONS * swap.value > PREDICTED["full"].latency_s.value / 2
    assert pi.swap_seconds(2 * MIB) == Interval.exactly(0.0)


def test_what_was_fitted_says_so() -> None:
    """Parameters that no data sheet gives, and no others."""
    pi = load_device("pi-zero-2")
    fitted = {
        key
        for key, number in pi.quantities()
        if ("TinyTrain's rows" in number.source or "(ICML 2024)" in number.source)
        and not key.startswith(("references.", "training_budget."))
    }
    allowed = ("targets.cpu.throughput.", "targets.cpu.power.", "memory.ram.available")
    assert fitted
    assert all(key.startswith(allowed) for key in fitted)


# TinyEngine (mit-han-lab), STM32H743: int8 inference, its README. Resolutions follow from the MACs
# that the README of mcunet prints for the same networks (classifier left out here).

TINYENGINE = {
    # name of the row: (network, resolution, MACs with the classifier of 1000 classes)
    "mcunet-in3": ("mcunet-320kb-1mb", 176, 81.8e6),
    "mbv2-w0.35": ("mbv2-w0.35", 144, 23.5e6),
    "proxyless-w0.3": ("proxyless-w0.3", 176, 38.3e6),
    "mcunet-in1": ("mcunet-5fps", 96, 12.8e6),
}


@pytest.mark.parametrize("row", TINYENGINE)
def test_int8_inference_on_the_stm32h743(row: str) -> None:
    """The first two rows were fitted to, the last two were not."""
    network, side, macs = TINYENGINE[row]
    board = load_device("stm32h743")
    graph = architecture_graph(network, resolution=side)
    assert graph.forward_macs() + 1000 * graph[graph.output].shape[1] == pytest.approx(
        macs, rel=0.01
    )
    program = compile_program(graph, UpdatePlan(), TrainingStep(bits=BitWidths(8, 8, 8, 8)))
    published = board.references[f"tinyengine_int8_{row}_forward"].value
    seconds = step_seconds(program, board.target("tinyengine"))
    assert seconds.value == pytest.approx(published, rel=0.25)
    assert seconds.low < published < seconds.high


def test_eight_bits_take_the_rates_of_eight_bits() -> None:
    target = load_device("stm32h743").target()
    assert target.throughput_int8 is not None
    wide, narrow = target.at(BitWidths()), target.at(BitWidths(8, 8, 8, 8))
    mixed = target.at(BitWidths(8, 8, 32, 32))
    assert wide is target
    assert narrow.throughput == mixed.throughput == target.throughput_int8
    assert target.at(BitWidths(8, 32, 32, 32)) is target
    pi = load_device("pi-zero-2").target()
    assert pi.at(BitWidths(8, 8, 8, 8)) is pi
