"""Options that more than one command takes, each declared once, and what is checked of them.

A command puts them together: `@together(data_option(), split_option, ways_option)`. Each has a
sentence, and a default that is not a plain value stands behind it as click writes the others.
"""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from costsim.base.errors import InputError
from costsim.base.files import mode_of, resolved, told_path, why
from costsim.base.units import parse_bytes, parse_joules, parse_seconds
from costsim.cli.values import Quantity, parse_macs_or_share
from costsim.ir.recipe import LARGEST_SEED
from costsim.ir.step import OPTIMIZER_STATES
from costsim.pricing.accounting import ACCOUNTINGS
from costsim.run.criteria.loss import LOSSES
from costsim.run.native import BACKENDS

if TYPE_CHECKING:
    from costsim.planning import BudgetRequest

F = TypeVar("F", bound="Callable[..., Any] | click.Command")


def together(*options: Callable[[Any], Any]) -> Callable[[F], F]:
    """Several options as one, in this order on the help page."""

    def applied(command: F) -> F:
        return reduce(lambda inner, option: option(inner), reversed(options), command)

    return applied


backend_option = click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    default=BACKENDS[0],
    show_default=True,
    help="Who computes the steps: PyTorch, or kernels compiled for this machine (native).",
)
"""Where kernels cannot be used torch is, and the command says so."""


# Files.


def path_option(*names: str, metavar: str = "FILE", **more: Any) -> Callable[[F], F]:
    """A file or folder of the person's."""
    return click.option(*names, type=click.Path(path_type=Path), metavar=metavar, **more)


def page_option(
    words: str = "Write a page to look at (HTML, nothing else needed).",
) -> Callable[[F], F]:
    """`--report`."""
    return path_option("--report", help=words)


def json_option(words: str = "Print one JSON document instead of tables.") -> Callable[[F], F]:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help=words)


def check_writable(path: Path | None, option: str) -> None:
    """Raise `InputError` at once if a file could not be written there later."""
    if path is None:
        return
    try:
        mode = mode_of(path)
        folder = resolved(path).parent  # where a link leads; files are written beside themselves
        if mode is not None and stat.S_ISDIR(mode):
            raise InputError(f"{option}: {path} is a folder; a file is needed")
        if not folder.is_dir():
            raise InputError(f"{option}: the folder {told_path(path.parent)} does not exist")
    except (OSError, ValueError) as error:
        raise InputError(f"{option}: {told_path(path)}: {why(error)}") from error
    if (mode is None or stat.S_ISREG(mode)) and not os.access(folder, os.W_OK):
        raise InputError(f"{option}: no permission to write in {folder}")


# What is planned or trained, and where.

DEVICE = "A shipped device (costsim devices lists them) or a YAML file of your own."

target_option = click.option(
    "--target",
    "--compute-target",
    "target",
    metavar="NAME",
    help="Compute target of the device, such as cpu or gpu.  [default: the device's own]",
)
compute_target_option = click.option(
    "--target",
    "--compute-target",
    "compute_target",
    metavar="NAME",
    help="Compute target of the device, such as cpu or gpu.  [default: the device's own]",
)
plan_argument = click.argument("plan", type=click.Path(path_type=Path))
# The budgets of a step.


@dataclass(frozen=True, kw_only=True)
class BudgetOptions:
    """What `budget_options` read: bytes, a count or a share of MACs, seconds, joules."""

    memory: int | None
    accounting: str | None
    macs: tuple[int | None, float | None] | None
    latency: float | None
    energy: float | None


def budget_options(of: str) -> Callable[[F], F]:
    """`--memory`, `--accounting`, `--macs`, `--latency`, `--energy`; `of` is what they are of."""
    return together(
        click.option(
            "--memory",
            type=Quantity("size", parse_bytes),
            metavar="SIZE",
            help=f"Memory of {of}: 256KiB, 1MB. More than the RAM of a device with swap lets it "
            "swap, at a price, unless a budget is in seconds or joules.  [default: the device's]",
        ),
        click.option(
            "--accounting",
            type=click.Choice(ACCOUNTINGS),
            help="What the memory budget counts; peak: every live byte of the step, arena: what "
            "an allocator with planned offsets needs for them.  [default: the device's; peak for "
            "those that ship]",
        ),
        click.option(
            "--macs",
            type=Quantity("macs", parse_macs_or_share),
            metavar="COUNT|PERCENT",
            help=f"Backward MACs of {of}: 6.5M, or 15% of a full backward pass.  "
            "[default: the device's]",
        ),
        click.option(
            "--latency",
            type=Quantity("time", parse_seconds),
            metavar="TIME",
            help=f"Seconds of {of}: 2s, 80ms.  [default: the device's, if any]",
        ),
        click.option(
            "--energy",
            type=Quantity("energy", parse_joules),
            metavar="ENERGY",
            help=f"Joules of {of}: 5J.  [default: the device's, if any]",
        ),
    )


def budget_request(given: BudgetOptions) -> "BudgetRequest":
    """Their values as a `BudgetRequest`."""
    from costsim.planning import BudgetRequest

    macs, share = given.macs or (None, None)
    return BudgetRequest(
        memory_bytes=given.memory,
        accounting=given.accounting,
        macs=macs,
        macs_share=share,
        latency_s=given.latency,
        energy_j=given.energy,
    )


# Training.


def optimizer_option(default: str | None = None) -> Callable[[F], F]:
    """`--optimizer`; without a default, what is usual on the device."""
    usual = "" if default else "  [default: adam; sgd on a microcontroller]"
    return click.option(
        "--optimizer",
        type=click.Choice(list(OPTIMIZER_STATES)),
        default=default,
        show_default=default is not None,
        help=f"How weights are updated; what it keeps for that is counted.{usual}",
    )


def loss_option(words: str, default: str | None = "prototype") -> Callable[[F], F]:
    """`--loss`."""
    return click.option(
        "--loss",
        type=click.Choice(list(LOSSES)),
        default=default,
        show_default=True,
        help=words,
    )


def iterations_option(words: str) -> Callable[[F], F]:
    """`--iterations`."""
    return click.option(
        "--iterations", type=int, default=40, show_default=True, metavar="N", help=words
    )


augment_option = click.option(
    "--augment/--no-augment",
    default=True,
    show_default=True,
    help="Learn from lightly changed copies of the images.",
)
momentum_option = click.option(
    "--momentum",
    type=float,
    default=0.9,
    show_default=True,
    metavar="SHARE",
    help="Of the optimizer momentum.",
)
seed_option = click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    metavar="N",
    help="Of all that is drawn at random.",
)


def check_seed(seed: int | None) -> None:
    """Raise `InputError` for a seed that torch's generators do not take."""
    if seed is not None and not 0 <= seed <= LARGEST_SEED:
        raise InputError(f"--seed is {seed}; allowed are 0 to {LARGEST_SEED}")


def check_positive(**counts: int | None) -> None:
    """Raise `InputError` for a count below 1; one that is not given may be None."""
    for name, count in counts.items():
        if count is not None and count < 1:
            raise InputError(f"--{name} is {count}; at least 1 is needed")


# Runs that can be stopped and go on.

checkpoint_option = path_option(
    "--checkpoint",
    help="Keep where the run stands there.  [default: beside --out, until that is written]",
)
resume_option = click.option(
    "--resume", is_flag=True, help="Go on from the checkpoint, if there is one yet."
)


def checkpoint_file(out: Path | None, checkpoint: Path | None) -> tuple[Path | None, bool]:
    """Where the run stands is kept there; and whether it goes when `--out` is written.

    Raises `InputError` for files that could not be written later.
    """
    check_writable(out, "--out")
    check_writable(checkpoint, "--checkpoint")
    if checkpoint is None:
        return (None if out is None else out.with_name(f"{out.name}.checkpoint")), out is not None
    if out is not None and resolved(out) == resolved(checkpoint):
        raise InputError("--out and --checkpoint name the same file")
    return checkpoint, False


# Runs of many cells.

jobs_option = click.option(
    "--jobs", type=click.IntRange(1), metavar="N", help="Processes.  [default: one a core]"
)
scheduler_option = click.option(
    "--scheduler",
    metavar="tcp://HOST:PORT",
    help="Compute on the Dask cluster of this scheduler instead; its workers need costsim and "
    "find data and weights at the same paths.",
)
rows_option = path_option("--csv", "table", help="Write the rows as CSV.")


# Machines.

threads_option = click.option(
    "--threads",
    type=int,
    default=1,
    show_default=True,
    metavar="N",
    help="Threads that PyTorch computes on.",
)
