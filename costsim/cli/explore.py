"""`costsim explore`: a page on this machine where a plan follows its budgets while one drags."""

import shlex
import sys
import webbrowser
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from costsim.base.errors import InputError
from costsim.base.extras import require
from costsim.cli import completion
from costsim.cli.command import Command, typed_words
from costsim.cli.model_options import naming
from costsim.cli.options import check_writable, path_option, seed_option
from costsim.cli.plan_words import words_of
from costsim.cli.progress import progress_on_stderr
from costsim.cli.recipe import RecipeOptions, recipe_options
from costsim.cli.request import (
    EXPLAINING_S,
    RequestOptions,
    device_option,
    plan_request,
    request_options,
    time_limit_option,
)
from costsim.cli.signature import taking, was_typed
from costsim.pricing.accounting import ACCOUNTINGS
from costsim.problem.axes import SCORED_AXES
from costsim.run.criteria import CRITERIA
from costsim.run.criteria.loss import LOSSES
from costsim.solvers import SOLVERS

if TYPE_CHECKING:
    from costsim.planning import PlanRequest
    from costsim.report.explore.controls import Controls
    from costsim.report.explore.server import Switches
    from costsim.report.explore.session import Session

SWITCHED = (
    "device", "accounting", "solver", "axis", "memory", "macs", "latency", "energy", "storage",
)  # fmt: skip
"""Options that the page has a control for."""

OWN = ("port", "no-browser", "out")
"""Options of the page that are none of a plan."""


@dataclass(frozen=True, kw_only=True)
class ExploreOptions(RequestOptions, RecipeOptions):
    """What was typed of `costsim explore`."""

    plan: Path | None
    solver: str
    out: Path | None
    port: int
    no_browser: bool


@click.command(
    "explore",
    cls=Command,
    listed={"Solvers": SOLVERS.entries, "Criteria": CRITERIA.entries, "Losses": LOSSES.entries},
)
@click.argument("plan", type=click.Path(path_type=Path), required=False)
@device_option()
@request_options
@click.option(
    "--solver",
    default="exact",
    show_default=True,
    metavar="NAME",
    callback=naming,
    shell_complete=completion.of_registry(SOLVERS),
    help="Who chooses: one of the solvers below, or my.py:Mine.",
)
@time_limit_option
@recipe_options("Passes over the samples.")
@seed_option
@path_option("--out", help="Where Save plan writes, whatever is there.  [default: plan.json]")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    metavar="N",
    help="Port of this machine that the page is at.  [default: one that is free]",
)
@click.option("--no-browser", is_flag=True, help="Only print the page's address.")
@taking(ExploreOptions)
def command(given: ExploreOptions) -> int:
    """Open a page where the proven plan follows its budgets while one drags them.

    It is at an address of this machine alone that nobody can guess, and asks no other. It begins
    with what PLAN was made with, where one is given, and with the options, which are those of
    costsim plan. Needs the extra costsim[explore].

    \b
    Examples
      costsim explore --device jetson-nano
      costsim explore plan.json --memory 512KiB
      costsim explore --device my.yaml --model my_package.nets:make --data faces.zip
    """
    require("explore", "the page")
    check_writable(given.out, "--out")
    if given.plan is not None:
        return _begun_with(given.plan)
    devices = given.devices
    if len(devices) > 1:
        raise InputError("--device: a page begins with one device; give one")
    plan_request(given, devices[0] if devices else None, given.solver, recipe=given)
    from costsim.report.explore.server import listening, page_maker, serve

    bound = listening(given.port)
    session, start, model, switches = _session(given)
    session.exploration.prepared(session.request(start))
    page = page_maker(session, start, model, switches)
    serve(session, page, bound, lambda address: _ready(address, given))
    return 0


def _begun_with(path: Path) -> int:
    """The same with the options that a plan was made with, where none is typed."""
    from costsim.cli.planned import given_plan

    context = click.get_current_context()
    groups = [*_options(typed_words()[1:], context.command)]
    typed = [word for name, group in groups if name is not None for word in group]
    own = {name for name, _ in groups}
    words = words_of(given_plan(path, ()), path)
    made = [word for name, of in words.items() if name not in own for word in of]
    if "device" not in own and "device" not in words:
        raise InputError(f"{path}: its device is not shipped: give its file with --device")
    with context.command.make_context("explore", [*made, *typed], context.parent) as again:
        found: int = context.command.invoke(again)
        return found


def _ready(address: str, given: ExploreOptions) -> None:
    """Say where the page is, and open it."""
    click.echo(address)
    print("costsim: the page is at this address; Ctrl-C ends it", file=sys.stderr, flush=True)
    if not given.no_browser and not webbrowser.open(address):
        print("costsim: note: no browser was found; open the address in one", file=sys.stderr)


def _session(given: ExploreOptions) -> "tuple[Session, Controls, str, Switches]":
    """What the page asks, what it begins with, whose page it is, and what can be switched."""
    from costsim.device import load_device, shipped_devices
    from costsim.planning.exploration import Exploration
    from costsim.report.explore.session import Session
    from costsim.solvers import make_solver

    first = given.devices[0]
    begun = load_device(first)
    others = [one for one in map(load_device, shipped_devices()) if one.name != begun.name]
    asking = _Asking(given, click.get_current_context())
    session = Session(
        exploration=Exploration(progress_on_stderr),
        ask=asking.request,
        prover=make_solver("exact", time_limit_s=EXPLAINING_S, clock="processor"),
        devices=tuple(others),
        command=asking.command,
        out=given.out or Path("plan.json"),
        may_replace=given.out is not None,
    )
    titles = [(first, begun.title), *((one.name, one.title) for one in others)]
    switches = [
        ("device", "Device", titles),
        ("accounting", "What memory counts", [("", "the device's"), *_alike(ACCOUNTINGS)]),
        ("solver", "Solver", _alike((*dict.fromkeys((given.solver, *SOLVERS.entries)),))),
        ("axis", "Channels of a weight", _alike(SCORED_AXES)),
    ]
    return session, asking.start(), given.model, switches


def _alike(names: Iterable[str]) -> list[tuple[str, str]]:
    return [(name, name) for name in names]


class _Asking:
    """From the page's controls to what `costsim plan` is asked by the same options."""

    def __init__(self, given: ExploreOptions, context: click.Context) -> None:
        self.given, self.context = given, context
        self.first = given.devices[0]
        self.usual = given.time_limit is None and not was_typed("solver")
        self.kept = _without(typed_words()[1:], context.command, (*SWITCHED, *OWN))
        self.made: dict[tuple[str, str, str], PlanRequest] = {}

    def start(self) -> "Controls":
        """What was typed of the controls."""
        from costsim.report.explore.controls import Controls

        typed = _values(typed_words()[1:], self.context.command, SWITCHED)
        return Controls(**{"solver": self.given.solver, "axis": self.given.axis} | typed)

    def request(self, controls: "Controls") -> "PlanRequest":
        """The request, but for its budgets; made once, so that two that are alike are known so."""
        key = controls.device, controls.solver, controls.axis
        if key not in self.made:
            if controls.axis not in SCORED_AXES:
                raise InputError(f"--axis: allowed are {', '.join(SCORED_AXES)}")
            given = replace(
                self.given,
                axis=controls.axis,
                target=self.given.target if controls.device == self.first else None,
            )
            solver = None if self.usual and controls.solver == "exact" else controls.solver
            with self.context.scope(cleanup=False):
                self.made[key] = plan_request(given, controls.device, solver, recipe=given)
        return self.made[key]

    def command(self, controls: "Controls", out: str) -> str:
        """The command that writes the same plan file."""
        usual = {"axis": "output", "solver": "exact" if self.usual else ""}
        said = {
            name: text
            for name in SWITCHED
            if (text := getattr(controls, name).strip()) and text != usual.get(name)
        }
        words = [word for name, text in said.items() for word in (f"--{name}", text)]
        kept = self.kept
        if controls.device != self.first:
            kept = _without(kept, self.context.command, ("target",))
        return shlex.join(["costsim", "plan", *words, *kept, "--out", out])


def _options(
    words: Sequence[str], command: click.Command
) -> Iterator[tuple[str | None, tuple[str, ...]]]:
    """The words of a command line, those of one option together, with its name."""
    known = {
        name: option
        for option in command.params
        if isinstance(option, click.Option)
        for name in (*option.opts, *option.secondary_opts)
    }
    left = iter(words)
    for word in left:
        name, equals, _ = word.partition("=")
        option = known.get(name)
        if option is None:
            yield None, (word,)
            continue
        alone = bool(equals) or option.is_flag
        value = () if alone else (next(left),)
        yield option.opts[0].removeprefix("--"), (word, *value)


def _without(
    words: Sequence[str], command: click.Command, names: Collection[str]
) -> tuple[str, ...]:
    """The words that are of none of these options."""
    return tuple(
        word for name, group in _options(words, command) if name not in names for word in group
    )


def _values(words: Sequence[str], command: click.Command, names: Collection[str]) -> dict[str, str]:
    """What was typed of these options; the last where one was typed twice."""
    return {
        name: group[-1] if len(group) > 1 else group[0].partition("=")[2]
        for name, group in _options(words, command)
        if name is not None and name in names
    }
