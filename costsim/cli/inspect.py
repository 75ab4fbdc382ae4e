"""`costsim inspect`: what a network costs to run and to train, without data."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from costsim.base.files import to_json_text
from costsim.cli import completion
from costsim.cli.command import Command
from costsim.cli.model_options import naming, resolution_option
from costsim.cli.options import DEVICE, json_option, target_option, together
from costsim.cli.progress import progress_on_stderr
from costsim.cli.signature import taking
from costsim.cli.values import parse_bits
from costsim.ir.step import OPTIMIZER_STATES, Optimizer

if TYPE_CHECKING:
    from costsim.base.progress import Progress
    from costsim.ir.graph import LayerGraph


@dataclass(frozen=True, kw_only=True)
class InspectOptions:
    """What was typed of `costsim inspect`."""

    model: str
    device: str | None
    target: str | None
    resolution: int | None
    optimizer: Optimizer | None
    bits: str | None
    as_json: bool


device_options = together(
    click.option(
        "--device",
        metavar="NAME|FILE",
        shell_complete=completion.devices,
        help=f"{DEVICE} Adds seconds, joules and whether it fits.  [default: bytes and MACs alone]",
    ),
    target_option,
)


@click.command("inspect", cls=Command)
@click.argument("model", callback=naming, shell_complete=completion.models)
@device_options
@resolution_option
@click.option(
    "--optimizer",
    type=click.Choice(list(OPTIMIZER_STATES)),
    help="How weights are updated; what it keeps for that is counted.  [default: what is usual on "
    "the device, else sgd]",
)
@click.option(
    "--bits",
    metavar="BITS",
    help="Bits an element: 8, or weights=8,gradients=32.  [default: what is usual on the device, "
    "else 32]",
)
@json_option()
@taking(InspectOptions)
def command(given: InspectOptions) -> int:
    """Price MODEL without data: running it, training its last layer, training all of it.

    A built-in network, package.module:factory, or an exported file.pt2; one sample at a time. Each
    layer is a row with its kind, its output, its parameters and what it takes. The exit status is
    1 if not even running it fits on the device.

    \b
    Examples
      costsim inspect mcunet-5fps
      costsim inspect mcunet-5fps --device stm32f746
      costsim inspect my_package.nets:make --device jetson-nano --json
    """
    from costsim.device import load_device
    from costsim.ir.step import BitWidths, TrainingStep
    from costsim.planning.inspection import inspect_graph
    from costsim.planning.request import usual_recipe
    from costsim.report.inspection import inspection_json, render_inspection

    device = None if given.device is None else load_device(given.device)
    if device is not None:
        device.target(given.target)  # one that it lacks is an error before any work
    usual = BitWidths() if device is None else device.bits.usual
    optimizer: Optimizer = "sgd" if device is None else usual_recipe(device).optimizer
    step = TrainingStep(
        bits=parse_bits(given.bits, usual) if given.bits else usual,
        optimizer=given.optimizer or optimizer,
    )
    with progress_on_stderr() as progress:
        graph = _graph(given, progress)
        progress("pricing", 0, 0)
        found = inspect_graph(given.model, graph, step, device, given.target)
    if given.as_json:
        click.echo(to_json_text(inspection_json(found)))
    else:
        from costsim.cli.console import Console

        render_inspection(Console(), found)
    return 0 if found.fits else 1


def _graph(given: InspectOptions, progress: "Progress") -> "LayerGraph":
    """The model's; a built-in one is known without being built."""
    from costsim.models.networks import NETWORKS

    if given.model in NETWORKS:
        from costsim.models.networks.graph import architecture_graph

        return architecture_graph(given.model, resolution=given.resolution)
    progress("loading the model", 0, 0)
    from costsim.models.loading import load_model
    from costsim.models.tracing import trace

    loaded = load_model(given.model, resolution=given.resolution)
    progress("tracing the model", 0, 0)
    return trace(loaded.module, loaded.example_input)
