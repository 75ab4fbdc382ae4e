"""`costsim pareto`: the frontier of gain against memory, MACs or latency."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from costsim.base.errors import InputError
from costsim.base.files import to_json_text, write_atomically
from costsim.cli.command import Command
from costsim.cli.made import made_now
from costsim.cli.options import check_writable, json_option, page_option, path_option, seed_option
from costsim.cli.progress import progress_on_stderr
from costsim.cli.request import (
    RequestOptions,
    device_option,
    plan_request,
    request_options,
    time_limit_option,
)
from costsim.cli.signature import taking
from costsim.problem.budget import BUDGETS
from costsim.run.criteria import CRITERIA
from costsim.run.criteria.loss import LOSSES

if TYPE_CHECKING:
    from costsim.planning import Prepared
    from costsim.solving.pareto import Frontier, Point

SCHEMA = "costsim.frontier/1"
PICTURES = {".svg": "svg", ".png": "png"}


@dataclass(frozen=True, kw_only=True)
class ParetoOptions(RequestOptions):
    """What was typed of `costsim pareto`."""

    against: str
    points: int
    every: bool
    out: Path | None
    as_csv: Path | None
    picture: Path | None
    report: Path | None
    as_json: bool


@click.command(
    "pareto",
    cls=Command,
    listed={"Criteria": CRITERIA.entries, "Losses": LOSSES.entries},
)
@device_option()
@request_options
@time_limit_option
@seed_option
@click.option(
    "--against",
    type=click.Choice(list(BUDGETS)),
    default="memory",
    show_default=True,
    help="What gain is held against; the other budgets hold.",
)
@click.option(
    "--points",
    type=click.IntRange(2, 10_000),
    default=20,
    show_default=True,
    metavar="N",
    help="How many budgets, evenly spread.",
)
@click.option("--all", "every", is_flag=True, help="Every point there is: may take long.")
@path_option("--out", help="Write the points as JSON.")
@path_option("--csv", "as_csv", help="Write them as CSV.")
@path_option("--picture", help="Draw them; the name ends in .svg or .png.")
@page_option()
@json_option()
@taking(ParetoOptions)
def command(given: ParetoOptions) -> int:
    """Draw the proven frontier of gain against a budget, with other methods beside it.

    Each point is the greatest gain of any plan that takes no more, within all other budgets; they
    are as for costsim plan. Beside it: the paper's greedy within the same budgets, and the
    published static schemes of SparseUpdate where the network has any. The frontier ends at the
    budget that is given for what is drawn; without one it ends where the gain does.

    \b
    Examples
      costsim pareto --device jetson-nano --picture frontier.svg
      costsim pareto --device stm32f746 --against macs --points 50 --csv frontier.csv
    """
    _check(given)
    from costsim.planning import model_notes, prepare
    from costsim.solvers import make_solver
    from costsim.solvers.greedy import Greedy
    from costsim.solving.pareto import frontier

    solver = make_solver("exact", time_limit_s=given.time_limit)
    devices = given.devices
    if len(devices) > 1:
        raise InputError("--device: a frontier is of one device; give one")
    device = devices[0] if devices else None
    request = plan_request(given, device, "exact")
    with progress_on_stderr() as progress:
        prepared = prepare(request, progress)
        prepared = _lifted(prepared, given)
        found = frontier(
            prepared.problem,
            solver,
            given.against,
            points=None if given.every else given.points,
            beside=(Greedy(),),
            progress=progress,
        )
        found = replace(found, beside=(*found.beside, *_schemes(prepared, given.against)))
        document = _document(prepared, found)
        _write(given, prepared, found, document)
    if given.as_json:
        click.echo(to_json_text(document))
    elif found.points:
        _print(prepared, found)
    for note in (*model_notes(prepared.loaded, prepared.problem.graph), *_notes(prepared, found)):
        print(f"costsim: note: {note}", file=sys.stderr)
    if not found.points:
        from costsim.solving.solve import infeasibility

        print(
            f"costsim: No plan within the budgets gains anything: "
            f"{infeasibility(prepared.problem)}",
            file=sys.stderr,
        )
        return 1
    return 0


def _check(given: ParetoOptions) -> None:
    named = {
        "--out": given.out,
        "--csv": given.as_csv,
        "--picture": given.picture,
        "--report": given.report,
    }
    files = {name: path for name, path in named.items() if path is not None}
    for name, path in files.items():
        check_writable(path, name)
    if len(set(files.values())) < len(files):
        raise InputError(f"{', '.join(files)} name one file twice; give each its own")
    picture = given.picture
    if picture is not None and picture.suffix.lower() not in PICTURES:
        raise InputError(f"--picture: {picture} is no picture; its name must end in .svg or .png")


def _lifted(prepared: "Prepared", given: ParetoOptions) -> "Prepared":
    """Without the device's recommendation for what is drawn: only a limit that was given ends it.

    The memory that the device has still does.
    """

    limits = {"memory": given.memory, "macs": given.macs, "latency": given.latency}
    if limits[given.against] is not None:
        return prepared
    problem = prepared.problem
    limit: dict[str, Any] = {BUDGETS[given.against]: None}
    return replace(prepared, problem=problem.within(replace(problem.budget, **limit)))


def _schemes(prepared: "Prepared", against: str) -> "list[Point]":
    """The published static schemes for the network, priced as any plan is."""
    import numpy as np

    from costsim.pricing.accounting.sparse_update import SCHEMES, input_channel_norms, scheme_plan
    from costsim.solving.pareto import priced

    schemes = [scheme for scheme in SCHEMES if scheme.network == prepared.loaded.name]
    if not schemes:
        return []
    graph = prepared.problem.graph
    arrays = {
        name: np.asarray(tensor.detach().cpu().numpy()) for name, tensor in prepared.tensors.items()
    }
    norms = input_channel_norms(graph, arrays)
    return [
        priced(
            prepared.problem,
            against,
            scheme_plan(graph, scheme, norms),
            "sparse-update",
            f"{scheme.size_kb} KB",
        )
        for scheme in schemes
    ]


def _document(prepared: "Prepared", found: "Frontier") -> dict[str, Any]:
    from costsim import __version__
    from costsim.report.frontier import UNIT

    request, problem = prepared.request, prepared.problem
    order = tuple(problem.graph.layers)
    return {
        "schema": SCHEMA,
        "model": prepared.loaded.name,
        "provenance": prepared.loaded.provenance,
        "device": request.device.name,
        "target": request.target or request.device.default_target,
        "step": problem.step.to_json(),
        "budgets": problem.budget.to_json(),
        "criterion": problem.importance.criterion,
        "source": problem.importance.source,
        "against": found.against,
        "unit": UNIT[found.against],
        "full_gain": found.full_gain,
        "complete": found.complete,
        "points": [point.to_json(order) for point in found.points],
        "beside": [point.to_json(order) for point in found.beside],
        "seed": request.seed,
        "versions": {"costsim": __version__},
    }


def _write(
    given: ParetoOptions, prepared: "Prepared", found: "Frontier", document: dict[str, Any]
) -> None:
    from costsim.base.files import write_json
    from costsim.report.frontier import frontier_csv, frontier_picture, render_frontier_page

    if given.out:
        write_json(given.out, document)
    if given.as_csv:
        write_atomically(given.as_csv, frontier_csv(found))
    if given.picture and found.points:
        title = _title(prepared)
        picture = frontier_picture(found, title, PICTURES[given.picture.suffix.lower()])
        write_atomically(given.picture, picture)
    if given.report:
        page = render_frontier_page(
            found, _title(prepared), _limits(prepared), _notes(prepared, found), made_now()
        )
        write_atomically(given.report, page)


def _title(prepared: "Prepared") -> str:
    problem = prepared.problem
    memory = f"memory in the {problem.budget.accounting} accounting"
    return (
        f"{prepared.loaded.name} on {prepared.request.device.name}, batch {problem.step.batch}, "
        f"{problem.importance.criterion}; {memory}"
    )


def _limits(prepared: "Prepared") -> str:
    """The budgets, in words."""
    from costsim.problem.budget import describe

    return ", ".join(describe(*limit) for limit in prepared.problem.limits())


def _print(prepared: "Prepared", found: "Frontier") -> None:
    from rich.text import Text

    from costsim.cli.console import Console
    from costsim.report.frontier import render_frontier

    console = Console()
    console.print(Text(_title(prepared), style="bold"))
    console.print(Text(f"within {_limits(prepared)}\n"))
    render_frontier(console, found)


def _notes(prepared: "Prepared", found: "Frontier") -> list[str]:
    from costsim.planning import caveats

    notes = [*caveats(prepared)]
    if unproven := sum(not point.proven for point in found.points):
        notes.append(f"{unproven} points were not proven in time; give a longer --time-limit")
    if any(point.unscored for point in found.beside):
        notes.append(
            "the static schemes update channels that were not scored, whose gain is not counted; "
            "--axis both --inspect all scores all of them"
        )
    return notes
