"""`costsim devices`: the shipped devices, or one with the source of every number."""

import json

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from costsim.base.units import format_bytes
from costsim.cli import completion
from costsim.cli.command import Command
from costsim.cli.options import json_option
from costsim.device import DeviceSpec, Quantity, load_device, shipped_devices

LIST_SCHEMA = "costsim.devices/1"


@click.command("devices", cls=Command)
@click.argument("device", required=False, metavar="[NAME|FILE]", shell_complete=completion.devices)
@json_option()
def command(device: str | None, as_json: bool) -> None:
    """List the shipped devices, or show NAME with the source of every number.

    \b
    Examples
      costsim devices
      costsim devices jetson-nano
      costsim devices my-board.yaml --json
    """
    if device is None:
        specs = [load_device(name) for name in shipped_devices()]
        document = {"schema": LIST_SCHEMA, "devices": [spec.to_json() for spec in specs]}
        show = _overview(specs)
    else:
        spec = load_device(device)
        document = spec.to_json()
        show = _details(spec)
    if as_json:
        click.echo(json.dumps(document, indent=2, allow_nan=False))
        return
    # A file's texts are shown as they are, brackets and colons included.
    console = Console(markup=False, emoji=False, highlight=False)
    for part in show:
        console.print(part)


def _overview(specs: list[DeviceSpec]) -> list[Table | str]:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("name", "RAM", "flash", "target", "peak fp32", "power", "budget"):
        table.add_column(column, overflow="fold", no_wrap=column == "name")
    for spec in specs:
        for row, (name, target) in enumerate(spec.targets.items()):
            mark = " *" if name == spec.default_target and len(spec.targets) > 1 else ""
            first = row == 0
            table.add_row(
                spec.name if first else "",
                format_bytes(spec.ram_bytes) if first else "",
                (format_bytes(spec.flash_bytes) if spec.flash_bytes else "-") if first else "",
                f"{name}{mark}",
                str(target.peak.fp32),
                str(target.power.compute),
                _budget(spec, "\n") if first else "",
            )
    notes = (
        "RAM is what training may have; * is the target used unless another is named.\n"
        "Budget: recommended memory, in its accounting, and share of the backward MACs.\n"
        "costsim devices NAME shows one with the source of every number."
    )
    return [table, notes]


def _budget(spec: DeviceSpec, separator: str = ", ") -> str:
    budget = spec.training_budget
    limits = (budget.macs_share, budget.latency, budget.energy)
    parts = [str(limit) for limit in limits if limit is not None]
    return separator.join((f"{budget.memory}, {', '.join(parts)}", budget.accounting))


def _details(spec: DeviceSpec) -> list[Table | str]:
    counts = ", ".join(f"{count} {kind}" for kind, count in spec.provenance_counts().items())
    head = [
        spec.title,
        spec.description,
        f"RAM for training {format_bytes(spec.ram_bytes)}, largest block "
        f"{format_bytes(spec.largest_block_bytes)}; frozen weights in "
        f"{spec.placement.frozen_weights}, updated weights in {spec.placement.updated_weights}",
        "bits: "
        + "; ".join(
            f"{name} {', '.join(map(str, getattr(spec.bits, name)))}"
            for name in ("weights", "activations", "gradients")
        )
        + f" ({spec.bits.source})",
        f"targets {', '.join(spec.targets)} (default {spec.default_target}); "
        f"recommended budget (memory, share of backward MACs, accounting) {_budget(spec)}",
        f"numbers: {counts}",
    ]
    table = Table()
    for column in ("number", "value", "range", "provenance", "source"):
        table.add_column(column, overflow="fold")
    for key, quantity in spec.quantities():
        table.add_row(key, str(quantity), _range(quantity), quantity.provenance, quantity.source)
    return [*head, table]


def _range(quantity: Quantity) -> str:
    if quantity.low is None or quantity.high is None:
        return ""
    return f"{quantity.format(quantity.low)} to {quantity.format(quantity.high)}"
