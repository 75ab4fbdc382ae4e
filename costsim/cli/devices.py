"""`costsim devices`: the shipped devices, one in full, a new file for one, all for one model."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.box import SIMPLE_HEAD
from rich.table import Table

from costsim.base.errors import InputError, note
from costsim.base.files import write_atomically
from costsim.base.units import format_bytes, parse_bytes, parse_hertz
from costsim.cli import completion
from costsim.cli.command import Command
from costsim.cli.console import Console
from costsim.cli.model_options import MODELS, naming, resolution_option, weights_option
from costsim.cli.options import check_writable, json_option, path_option
from costsim.cli.signature import taking
from costsim.cli.task_options import check_split, data_option, split_option
from costsim.cli.values import Quantity as Typed
from costsim.device import DeviceSpec, Quantity, load_device, shipped_devices

if TYPE_CHECKING:
    from costsim.planning.boards import BoardRow

LIST_SCHEMA = "costsim.devices/1"
COMPARISON_SCHEMA = "costsim.boards/1"


@dataclass(frozen=True, kw_only=True)
class DevicesOptions:
    """What was typed of `costsim devices`."""

    device: tuple[str, ...]
    new: str | None
    like: str | None
    core: str | None
    clock: float | None
    ram: int | None
    flash: int | None
    out: Path | None
    compare: str | None
    weights: Path | None
    resolution: int | None
    data: Path | None
    split: str | None
    schema: bool
    as_json: bool


@click.command("devices", cls=Command)
@click.argument("device", nargs=-1, metavar="[NAME|FILE]...", shell_complete=completion.devices)
@click.option(
    "--new", metavar="NAME", help="Write a device file for a board of yours, scaled from --like."
)
@click.option(
    "--like",
    metavar="NAME|FILE",
    shell_complete=completion.devices,
    help="The device most like it, with --new.  [default: stm32f746]",
)
@click.option("--core", metavar="CORE", help="Its core: cortex-m33.  [default: that of --like]")
@click.option(
    "--clock",
    type=Typed("clock", parse_hertz),
    metavar="FREQUENCY",
    help="Its clock: 160MHz.  [default: that of --like]",
)
@click.option(
    "--ram",
    type=Typed("size", parse_bytes),
    metavar="SIZE",
    help="Its RAM: 768KiB.  [default: that of --like]",
)
@click.option(
    "--flash",
    type=Typed("size", parse_bytes),
    metavar="SIZE",
    help="Its flash: 2MiB.  [default: that of --like]",
)
@path_option("--out", help="Where --new writes.  [default: NAME.yaml]")
@click.option(
    "--compare",
    metavar="MODEL",
    callback=naming,
    shell_complete=completion.models,
    help=f"One plan for each device, in one table. {MODELS}.",
)
@weights_option()
@resolution_option
@data_option()
@split_option
@click.option(
    "--schema", is_flag=True, help="Print what stands in a device file, as a page in Markdown."
)
@json_option()
@taking(DevicesOptions)
def command(given: DevicesOptions) -> int:
    """List the shipped devices, or show NAME with the source of every number.

    With --compare: whether MODEL can be adapted on each of them, or on those that are named, what
    a step and an adaptation take there, and how much of all gain each has room for. The exit
    status is 1 if it fits none.

    \b
    Examples
      costsim devices
      costsim devices jetson-nano
      costsim devices my-board.yaml --json
      costsim devices --new my-u5 --like stm32f746 --core cortex-m33 --clock 160MHz \\
                      --ram 768KiB --flash 2MiB
      costsim devices --compare mcunet-5fps
      costsim devices stm32h743 my-u5.yaml --compare net.py:make
    """
    scaled = (given.like, given.core, given.clock, given.ram, given.flash, given.out)
    if given.new is None and any(one is not None for one in scaled):
        raise InputError("--like, --core, --clock, --ram, --flash and --out are for --new NAME")
    asked = (given.weights, given.resolution, given.data, given.split)
    if given.compare is None and any(one is not None for one in asked):
        raise InputError("--weights, --resolution, --data and --split are for --compare MODEL")
    _check_one_thing(given)
    if given.schema:
        from costsim.device.reference import schema_page

        click.echo(schema_page(), nl=False)
        return 0
    if given.new is not None:
        return _write_new(given, given.new)
    if given.compare is not None:
        return _compare(given, given.compare)
    if len(given.device) > 1:
        raise InputError("several devices are for --compare MODEL; give one")
    _show(given.device[0] if given.device else None, as_json=given.as_json)
    return 0


def _check_one_thing(given: DevicesOptions) -> None:
    """Raise `InputError` for what another option would leave out."""
    said = {
        "--schema": given.schema,
        "--new": given.new is not None,
        "--compare": given.compare is not None,
        "a device": bool(given.device),
        "--json": given.as_json,
    }
    alone = next((one for one in ("--schema", "--new") if said[one]), None)
    if alone and (other := next((one for one in said if said[one] and one != alone), None)):
        raise InputError(f"{alone} does one thing alone; leave out {other}")


def _write_new(given: DevicesOptions, name: str) -> int:
    from costsim.device.scaled import NewBoard, banks_left_out, device_like

    out = Path(f"{name}.yaml") if given.out is None else given.out
    check_writable(out, "--out")
    if out.exists():
        raise InputError(f"{out} is there already; give --out another file")
    template = load_device(given.like or "stm32f746")
    board = NewBoard(name, given.core, given.clock, given.ram, given.flash)
    write_atomically(out, device_like(template, board))
    for told in banks_left_out(template, board):
        note(told)
    click.echo(f"{out}: an estimate scaled from {template.name}; costsim devices {out} shows it")
    return 0


def _compare(given: DevicesOptions, model: str) -> int:
    check_split(given.split, given.data)
    specs = [load_device(name) for name in given.device or shipped_devices()]

    from costsim.cli.progress import progress_on_stderr
    from costsim.planning import PlanRequest
    from costsim.planning.boards import compare_boards

    requests = [
        PlanRequest(
            device=spec,
            model=model,
            weights=given.weights,
            resolution=given.resolution,
            data=given.data,
            split=given.split,
        )
        for spec in specs
    ]
    with progress_on_stderr() as progress:
        rows = compare_boards(requests, progress)
    if given.as_json:
        document = {
            "schema": COMPARISON_SCHEMA,
            "model": model,
            "boards": [row.to_json() for row in rows],
        }
        click.echo(json.dumps(document, indent=2, allow_nan=False))
    else:
        console = Console(markup=False, emoji=False, highlight=False)
        for part in _boards(rows):
            console.print(part)
    return 0 if any(row.fits for row in rows) else 1


def _boards(rows: "list[BoardRow]") -> list[Table | str]:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("board", "fits", "peak", "flash", "a step", "the adaptation", "energy", "gain"):
        table.add_column(column, overflow="fold", no_wrap=column == "board")
    for row in rows:
        table.add_row(*row.cells())
    notes = [f"{row.device}: {row.reason}" for row in rows if row.reason]
    notes.append(
        "Each by its own recommended budget and usual recipe. Peak: RAM of a step; flash: weights "
        "that stay.\nGain: share of that of updating everything that was inspected. Seconds and "
        "joules are estimates; costsim plan has their ranges."
    )
    return [table, *notes]


def _show(device: str | None, *, as_json: bool) -> None:
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
