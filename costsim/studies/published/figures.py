"""What TinyTrain's paper prints of costs (Kwon et al., ICML 2024; arXiv 2307.09988v2).

Facts, each with the place that it is from. Only what this project has a source for is here: the
paper's tables as they are told in `devices/pi-zero-2.yaml` and in the tests of published figures,
and its abstract. What else the paper prints of costs (memory and MACs of MobileNetV2 and
ProxylessNASNet, minutes on the Jetson Nano) is left out rather than guessed.
"""

from dataclasses import dataclass
from enum import StrEnum

PAPER = "TinyTrain (ICML 2024)"
MB = 2**20
"""Of the paper's tables, as its row of full training shows."""

MCUNET, MOBILENET, PROXYLESS = "mcunet-5fps", "mbv2-w0.35", "proxyless-w0.3"
PI = "pi-zero-2"
NANO = "jetson-nano"
NETWORKS, BOARDS = (MCUNET, MOBILENET, PROXYLESS), (PI, NANO)


class Quantity(StrEnum):
    """What a figure is of, with its unit."""

    MEMORY = "memory_bytes"
    MACS = "backward_macs"
    TIME = "time_s"
    ENERGY = "energy_j"
    CHOOSING = "choosing_s"
    CHOOSING_SHARE = "choosing_share"
    LESS_MEMORY = "memory_ratio"
    FEWER_MACS = "macs_ratio"
    FASTER = "time_ratio"
    LESS_ENERGY = "energy_ratio"


@dataclass(frozen=True, slots=True)
class Figure:
    """One printed figure, in base units; `low` and `high` differ where the paper prints a range.

    None for the network or board: it is of all of them, or of none.
    """

    quantity: Quantity
    method: str
    network: str | None
    board: str | None
    low: float
    high: float
    source: str


def _memory_and_macs() -> tuple[Figure, ...]:
    table = f"{PAPER}, table of memory and compute of a backward pass"
    rows = {
        "FullTrain": (906, 44.9e6),
        "LastLayer": (2.03, 1.57e6),
        "TinyTL": (542, 26.4e6),
        "SparseUpdate": (1.43, 11.9e6),
        "TinyTrain": (0.89, 6.51e6),
    }
    mix = f"{table}: the weight gradient of the feature mix"
    macs = {
        **{(MCUNET, name): (macs, table) for name, (_, macs) in rows.items()},
        (MOBILENET, "LastLayer"): (112 * 448 * 4 * 4, mix),
        (PROXYLESS, "LastLayer"): (96 * 384 * 4 * 4, mix),
    }
    return (
        *(
            Figure(Quantity.MEMORY, name, MCUNET, None, size * MB, size * MB, table)
            for name, (size, _) in rows.items()
        ),
        *(
            Figure(Quantity.MACS, name, network, None, count, count, source)
            for (network, name), (count, source) in macs.items()
        ),
    )


def _time_and_energy() -> tuple[Figure, ...]:
    whole = f"{PAPER}, whole adaptation on a Raspberry Pi Zero 2"
    rows = {
        "FullTrain": (90, 4.4),
        "LastLayer": (8, 1.0),
        "TinyTL": (47, 2.3),
        "SparseUpdate": (10, 1.3),
        "TinyTrain": (9, 1.2),
    }
    minutes = {
        **{(MCUNET, name): amount for name, (amount, _) in rows.items()},
        (MOBILENET, "FullTrain"): 104,
        (PROXYLESS, "FullTrain"): 75,
    }
    return (
        *(
            Figure(Quantity.TIME, name, network, PI, 60 * amount, 60 * amount, whole)
            for (network, name), amount in minutes.items()
        ),
        *(
            Figure(Quantity.ENERGY, name, MCUNET, PI, 1e3 * amount, 1e3 * amount, whole)
            for name, (_, amount) in rows.items()
        ),
    )


def _choosing() -> tuple[Figure, ...]:
    source = f"{PAPER}, choosing layers and channels, on Pi Zero 2 and Jetson Nano"
    return tuple(
        Figure(quantity, "TinyTrain", None, board, low, high, source)
        for board in BOARDS
        for quantity, low, high in (
            (Quantity.CHOOSING, 20.0, 35.0),
            (Quantity.CHOOSING_SHARE, 0.034, 0.038),
        )
    )


def _headlines() -> tuple[Figure, ...]:
    abstract = f"{PAPER}, abstract"
    rows = (
        (Quantity.LESS_MEMORY, "FullTrain", None, 1098.0, f"{abstract}: up to"),
        (Quantity.FEWER_MACS, "FullTrain", None, 7.68, f"{abstract}: up to"),
        (Quantity.FASTER, "FullTrain", PI, 9.5, abstract),
        (Quantity.LESS_ENERGY, "FullTrain", PI, 3.5, abstract),
        (
            Quantity.LESS_MEMORY,
            "SparseUpdate",
            None,
            2.23,
            f"{abstract}: over the state of the art",
        ),
    )
    return tuple(
        Figure(quantity, method, None, board, times, times, source)
        for quantity, method, board, times, source in rows
    )


FIGURES = (*_memory_and_macs(), *_time_and_energy(), *_choosing(), *_headlines())
