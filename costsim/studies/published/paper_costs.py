"""Every cost that TinyTrain's paper prints, beside the predicted one."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from statistics import fmean

from costsim.base.progress import Progress, silent
from costsim.device import DeviceSpec, Interval, load_device
from costsim.ir.graph import LayerGraph
from costsim.ir.plan import UpdatePlan
from costsim.ir.program import compile_program
from costsim.pricing.choosing import scoring_cost
from costsim.pricing.cost import step_seconds
from costsim.pricing.ways import SINGLE, Training, Way
from costsim.problem.importance import inspected_layers
from costsim.studies.published.comparison import Comparison, Row
from costsim.studies.published.figures import (
    BOARDS,
    FIGURES,
    MCUNET,
    NETWORKS,
    PI,
    Figure,
    Quantity,
)
from costsim.studies.published.methods import (
    BATCH,
    ITERATIONS,
    METHODS,
    STEP,
    TRACED,
    Trained,
    own_graph,
)

FULL = "FullTrain"
SPARSE = "SparseUpdate"
OURS = "TinyTrain"

SCORING, ONE_PASS = "scoring alone", "a whole pass of stock PyTorch"

NOTES = (
    "MCUNet's rows on the Pi Zero 2 were fitted (*): rates of kernels, power and the share of RAM "
    "that training gets in devices/pi-zero-2.yaml are from them. Nothing was fitted to other rows.",
    "A row without a published figure: what the paper prints there has no source in this project. "
    "That holds for memory and MACs of the other two networks, of which the ratios are published, "
    "and for minutes and joules of the Jetson Nano, whose device file rests on data sheets and "
    "estimates alone.",
    f"Assumed, as in the fit: {ITERATIONS} iterations over {BATCH} images; FullTrain and TinyTL as "
    "stock PyTorch runs all of them at once, batch norm not folded, so that what does not fit in "
    "RAM swaps; the others with the gradients of one image after another in memory, at the rates "
    "of all at once. Class means are not in it.",
    "The MACs of FullTrain are published with the first layer's input gradient; nothing reads it.",
    "Image by image, and with as many images a pass as RAM takes: the same training by this "
    "project's own program, batch norm folded, which swaps nowhere. FullTrain that swaps is what "
    "the paper's 9.5 times is against; against FullTrain that does not it would be less than 3.",
    "TinyTL has this project's lite residual modules, and autograd keeps the inputs of frozen "
    "convolutions too; the paper's 542 MB and 26.4 M MACs are of less. With those two put in "
    "instead, as in the fit, it is predicted at 44 min and 2.8 kJ.",
    "TinyTrain's channels are chosen by lot within the paper's budgets (1 MB as the paper counts, "
    "15 % of the MACs); by Fisher information MACs are the same to 6 %, bytes to a quarter.",
    f"Choosing: class means of {BATCH} images, which the loss needs before any of them is scored, "
    "and the scoring pass, forward and back through the inspected layers alone, by this project's "
    "own program, image by image. A pass of stock PyTorch with all gradients is beside it.",
    "Choosing on the Jetson Nano takes a tenth of what is published at its GPU's rates, whatever "
    "passes are counted; 20 to 35 s that are 3.4 to 3.8 % of the whole make that 9 to 17 min, as "
    "long as on the Pi Zero 2. What else was in it, or whether the GPU was, is not known here.",
)
"""What to know of the rows before believing them."""


@dataclass(frozen=True)
class PaperCosts:
    """For all networks and boards of the paper, priced by the shipped device files."""

    def compare(self, progress: Progress | None = None) -> Comparison:
        """See `Reproduction`; `progress` counts networks times methods."""
        report: Progress = progress or silent
        trained: dict[tuple[str, str], Trained] = {}
        pairs = [(network, name) for network in NETWORKS for name in METHODS]
        wanted = [pair for pair in pairs if pair[1] not in TRACED or _has_figures(*pair)]
        for done, (network, name) in enumerate(wanted):
            report(f"pricing {name} on {network}", done, len(wanted))
            trained[network, name] = METHODS[name](network)
        return Comparison("paper-costs", tuple(_rows(trained)), NOTES)


def _has_figures(network: str, method: str) -> bool:
    return any((one.network, one.method) == (network, method) for one in FIGURES)


def _stock(trained: Trained, board: DeviceSpec) -> Way:
    """All iterations as the paper ran them."""
    training = Training(trained.stock_plan, STEP, ITERATIONS, board)
    return training.way("stock", trained.stock_program, trained.held_bytes)


def _own(network: str, trained: Trained, board: DeviceSpec) -> dict[str, Interval]:
    """Seconds of all iterations by this project's program, by how many images are in a pass."""
    if trained.plan is None:
        return {}

    def at(batch: int) -> LayerGraph:
        return own_graph(network, batch)

    training = Training(trained.plan, STEP, ITERATIONS, board)
    ways = (training.at(SINGLE, at, 1), training.fitting(at))
    return {
        way.name: way.latency_s for way in ways if way is not None and way.latency_s is not None
    }


Trainings = Mapping[tuple[str, str], Trained]
Times = Mapping[tuple[str, str, str], Way]
"""By board, network and method."""


def _priced(trained: Trainings, network: str) -> list[str]:
    """The methods that were priced on a network, in the paper's order."""
    return [name for name in METHODS if (network, name) in trained]


def _rows(trained: Trainings) -> Iterator[Row]:
    for network in NETWORKS:
        for name in _priced(trained, network):
            one = trained[network, name]
            held, macs = map(Interval.exactly, (one.held_bytes, one.backward_macs))
            yield _row(Quantity.MEMORY, name, network, None, held)
            yield _row(Quantity.MACS, name, network, None, macs)
    times = {}
    for board in BOARDS:
        device = load_device(board)
        for network in NETWORKS:
            for name in _priced(trained, network):
                one = trained[network, name]
                way = times[board, network, name] = _stock(one, device)
                assert way.latency_s is not None, "all of the paper's methods fit, with swap"
                assert way.energy_j is not None
                yield _row(
                    Quantity.TIME, name, network, board, way.latency_s, _own(network, one, device)
                )
                yield _row(Quantity.ENERGY, name, network, board, way.energy_j)
            yield from _choosing(network, device, times[board, network, OURS], trained)
    yield from _headlines(trained, times)


def _row(
    quantity: Quantity,
    method: str,
    network: str | None,
    board: str | None,
    predicted: Interval,
    others: Mapping[str, Interval] | None = None,
) -> Row:
    """With the figure that is published of it, if this project has a source for one."""
    fitted = (network, board) == (MCUNET, PI) and quantity in (Quantity.TIME, Quantity.ENERGY)
    published = _published(quantity, method, network, board)
    return Row(quantity, method, network, board, predicted, published, fitted, others or {})


def _published(
    quantity: Quantity, method: str, network: str | None, board: str | None
) -> Figure | None:
    """One of all networks is one of each."""
    found = (
        one
        for one in FIGURES
        if (one.quantity, one.method, one.board) == (quantity, method, board)
        and one.network in (network, None)
    )
    return next(found, None)


def _choosing(network: str, device: DeviceSpec, training: Way, trained: Trainings) -> Iterator[Row]:
    """Seconds of choosing, and as a share of it with the training that follows."""
    assert training.latency_s is not None
    graph, target, one = own_graph(network), device.target(), replace(STEP, batch=1)
    scoring = scoring_cost(graph, one, inspected_layers(graph), BATCH, target).latency_s
    means = step_seconds(compile_program(graph, UpdatePlan(), one), target) * BATCH
    stock = step_seconds(trained[network, FULL].stock_program, target)
    found = {"predicted": means + scoring, SCORING: scoring, ONE_PASS: stock}
    shares = {name: _share(took, training.latency_s) for name, took in found.items()}
    for quantity, amounts in ((Quantity.CHOOSING, found), (Quantity.CHOOSING_SHARE, shares)):
        yield _row(quantity, OURS, network, device.name, amounts.pop("predicted"), amounts)


def _share(part: Interval, rest: Interval) -> Interval:
    """Of both: the rates of a device are off by the same for either, so that no range is left."""
    return Interval.exactly(part.value / (part.value + rest.value))


def _headlines(trained: Trainings, times: Times) -> Iterator[Row]:
    """Ratios over TinyTrain's, the believed values' mean over the networks, from least to most."""

    def over(method: str, amount: Callable[[str, str], float]) -> Interval:
        found = [amount(network, method) / amount(network, OURS) for network in NETWORKS]
        return Interval(fmean(found), min(found), max(found))

    def seconds(network: str, method: str) -> float:
        return _value(times[PI, network, method].latency_s)

    def joules(network: str, method: str) -> float:
        return _value(times[PI, network, method].energy_j)

    for method in (FULL, SPARSE):
        less = over(method, lambda network, name: trained[network, name].held_bytes)
        yield _row(Quantity.LESS_MEMORY, method, None, None, less)
    fewer = over(FULL, lambda network, name: trained[network, name].backward_macs)
    yield _row(Quantity.FEWER_MACS, FULL, None, None, fewer)
    yield _row(Quantity.FASTER, FULL, None, PI, over(FULL, seconds))
    yield _row(Quantity.LESS_ENERGY, FULL, None, PI, over(FULL, joules))


def _value(amount: Interval | None) -> float:
    assert amount is not None
    return amount.value
