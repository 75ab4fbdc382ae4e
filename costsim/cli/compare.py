"""`costsim compare`: solvers on models, devices, budgets and tasks, kept in one file."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from costsim.base.errors import InputError
from costsim.base.extras import require
from costsim.base.files import resolved, to_json_text, write_atomically
from costsim.base.units import parse_count
from costsim.cli import completion
from costsim.cli.cell_runs import progress_line, tell_computed, tell_failures, tell_notes
from costsim.cli.command import Command
from costsim.cli.made import made_now
from costsim.cli.model_options import naming, trust_option
from costsim.cli.options import (
    jobs_option,
    json_option,
    page_option,
    path_option,
    rows_option,
    scheduler_option,
)
from costsim.cli.outputs import check_outputs
from costsim.cli.overwriting import check_not_named, texts_of
from costsim.cli.progress import lines_on_stderr
from costsim.cli.signature import taking
from costsim.cli.target_options import ended_like_interrupted
from costsim.cli.task_options import ways_option
from costsim.ir.step import OPTIMIZER_STATES, TrainingStep
from costsim.models.networks.shipped import RANDOM
from costsim.problem.axes import SCORED_AXES
from costsim.run.criteria import CRITERIA
from costsim.solvers import COMPARED, SOLVERS

if TYPE_CHECKING:
    from costsim.studies.engine import Study
    from costsim.studies.solvers import SolverCell, SolverStudies


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """What was typed of `costsim compare`; None: not given."""

    study: Path | None
    store: Path | None
    solvers: tuple[str, ...]
    models: tuple[str, ...]
    weights: tuple[str, ...]
    devices: tuple[str, ...]
    budgets: tuple[str, ...]
    data: tuple[str, ...]
    seeds: tuple[int, ...]
    ways: int | None
    shots: int | None
    criterion: str | None
    axis: str | None
    inspect: str | None
    layers: tuple[str, ...]
    exclude: tuple[str, ...]
    batch: int | None
    optimizer: str | None
    accuracy: bool | None
    time_limit: str | None
    trusted: tuple[str, ...]
    jobs: int | None
    scheduler: str | None
    table: Path | None
    report: Path | None
    as_json: bool


@click.command(
    "compare",
    cls=Command,
    listed={"Solvers": SOLVERS.entries, "Criteria": CRITERIA.entries},
)
@click.argument("study", required=False, type=click.Path(path_type=Path), metavar="[STUDY.yaml]")
@path_option(
    "--store",
    help="SQLite file with a row for each finished cell; what it has is not computed again.  "
    "[default: STUDY.sqlite]",
)
@click.option(
    "--solver",
    "solvers",
    multiple=True,
    metavar="NAME",
    callback=naming,
    shell_complete=completion.of_registry(SOLVERS),
    help="Who chooses: solvers below, or my.py:Mine; give it again for more.  "
    f"[default: {', '.join(COMPARED)}]",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="MODEL",
    callback=naming,
    shell_complete=completion.models,
    help="As of costsim plan; give it again for more.  [default: mcunet-5fps]",
)
@click.option(
    "--weights",
    multiple=True,
    metavar="MODEL=FILE",
    help="Weights for one of the models; MODEL=random: none, but those of the seed.",
)
@click.option(
    "--device",
    "devices",
    multiple=True,
    metavar="NAME|FILE",
    shell_complete=completion.devices,
    help="As of costsim plan; give it again for more.  [default: all that ship]",
)
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    metavar="LIMITS",
    help="recommended, or such as memory=256KiB,macs=15%; memory=150% is of what the device "
    "recommends; give it again for more.  [default: recommended]",
)
@click.option(
    "--data",
    multiple=True,
    metavar="PATH",
    help="Images, or digits; PATH::split for one of several sub-folders. Give it again for more.  "
    "[default: digits]",
)
@click.option(
    "--seed",
    "seeds",
    multiple=True,
    type=int,
    metavar="N",
    help="Of a task of each data; give it again for more.  [default: 0]",
)
@ways_option
@click.option("--shots", type=int, metavar="N", help="Images of each class.  [default: 5]")
@click.option(
    "--criterion",
    metavar="NAME",
    callback=naming,
    shell_complete=completion.of_registry(CRITERIA),
    help="What a channel is worth: a criterion below, or my.py:mine.  [default: fisher]",
)
@click.option(
    "--axis",
    type=click.Choice(list(SCORED_AXES)),
    metavar="output|input|both[+bias]|bias",
    help="Which channels of a weight can be chosen.  [default: output]",
)
@click.option(
    "--inspect", metavar="N|all", help="How many of the last layers are scored.  [default: 18]"
)
@click.option(
    "--layers",
    multiple=True,
    metavar="PATTERN",
    help="Only layers of these names can be chosen, such as 'blocks.1?.*'; may be repeated.",
)
@click.option(
    "--exclude",
    multiple=True,
    metavar="PATTERN",
    help="Layers of these names cannot be chosen; may be repeated.",
)
@click.option("--batch", type=int, metavar="N", help="Samples of a step.  [default: 1]")
@click.option(
    "--optimizer",
    type=click.Choice(list(OPTIMIZER_STATES)),
    help="How weights are updated.  [default: sgd]",
)
@click.option(
    "--accuracy",
    is_flag=True,
    default=None,
    help="Also train every plan on its task, and test it on other samples: takes far longer.",
)
@click.option(
    "--time-limit",
    metavar="TIME",
    help="For the solvers that take one.  [default: the solver's own]",
)
@trust_option
@jobs_option
@scheduler_option
@rows_option
@page_option()
@json_option()
@taking(CompareOptions)
def command(given: CompareOptions) -> int:
    """Compare solvers on every combination of models, devices, budgets and tasks.

    What is compared stands in a YAML file, in options, or in both: an option replaces the file's
    list. A run that is stopped, however, goes on where it was with the same command, and several
    at once on one store share the work. The exit status is 1 if a cell broke.

    \b
    Examples
      costsim compare --store study.sqlite --solver exact --solver greedy --seed 0 --seed 1
      costsim compare examples/compare.yaml --report compare.html --csv compare.csv
    """
    store_path = given.store
    if store_path is None:
        if given.study is None:
            raise InputError("--store is missing: the SQLite file that finished cells are kept in")
        store_path = given.study.with_suffix(".sqlite")
    check_outputs(
        {"--store": store_path, "--csv": given.table, "--report": given.report},
        {"STUDY.yaml": given.study},
    )
    if given.scheduler:
        require("cluster", "--scheduler")
    from costsim.studies.engine import StudyStore, run_study
    from costsim.studies.solvers import SolverStudies
    from costsim.studies.solvers.analysis import SolverFindings

    kind = SolverStudies()
    cells = _study(given, kind).cells()
    _tell_step(cells)
    store = StudyStore(store_path, kind)
    begun = time.monotonic()
    with lines_on_stderr() as say, ended_like_interrupted():
        computed = run_study(
            cells,
            store,
            kind,
            workers=given.jobs,
            scheduler=given.scheduler,
            watch=lambda done: say(progress_line(kind.doing, done)),
        )
    rows = store.rows_of(cells)
    tell_computed(computed, len(cells), begun)
    findings = SolverFindings.of(rows)
    if given.table:
        from costsim.report.comparison import comparison_csv

        write_atomically(given.table, comparison_csv(findings))
    if given.report:
        from costsim.report.comparison import render_comparison

        write_atomically(given.report, render_comparison(findings, made_now()))
    if given.as_json:
        from costsim.report.comparison import to_json

        click.echo(to_json_text(to_json(findings)))
    else:
        from costsim.cli.console import Console
        from costsim.report.comparison import print_comparison

        print_comparison(Console(), findings)
    tell_notes(findings.rows)
    tell_failures(findings.errors, ("solver", "model", "device", "budget", "domain"))
    return 1 if findings.errors else 0


def _study(given: CompareOptions, kind: "SolverStudies") -> "Study[SolverCell]":
    """The YAML file, if there is one, with what options replace of it."""
    from costsim.data import is_of_hub
    from costsim.studies.engine import parse_study, read_entries

    document: dict[str, Any] = {}
    source = "options"
    folder = Path()
    if given.study is not None:
        document = read_entries(given.study, kind)
        check_not_named(texts_of(document), given.study, "names")
        source, folder = str(given.study), resolved(given.study.parent)
    lists = {"solvers": given.solvers, "devices": given.devices, "budgets": given.budgets}
    document |= {name: list(texts) for name, texts in lists.items() if texts}
    weights = {}
    for text in given.weights:
        model, equals, path = text.partition("=")
        if not equals or model not in given.models:
            raise InputError(f"--weights: cannot read {text!r}; give MODEL=FILE with a --model")
        weights[model] = path if path == str(RANDOM) else str(resolved(Path(path)))
    if given.models:
        document["models"] = [
            {"model": model} | ({"weights": weights[model]} if model in weights else {})
            for model in given.models
        ]
    counts = {"ways": given.ways, "shots": given.shots}
    chosen = {name: count for name, count in counts.items() if count is not None}
    if given.data or given.seeds or chosen:
        if "tasks" in document:
            raise InputError("--data, --seed, --ways and --shots: the file has tasks of its own")
        document["tasks"] = [
            {
                "data": data if data == "digits" or is_of_hub(data) else str(resolved(Path(data))),
                "seeds": list(given.seeds or [0]),
                **chosen,
            }
            for data in given.data or ["digits"]
        ]
    replaced = _settings(given)
    if replaced:
        settings = document.get("settings", {})
        document["settings"] = {**settings, **replaced} if isinstance(settings, dict) else replaced
    return parse_study(document, source, kind, folder=folder)


def _tell_step(cells: "Sequence[SolverCell]") -> None:
    """That steps are not those which `costsim plan` plans on the same device unless told."""
    from costsim.device import load_device

    plain = TrainingStep()
    steps = {(cell.settings.optimizer, cell.settings.batch) for cell in cells}
    boards = any(not load_device(d).is_microcontroller for d in {cell.device for cell in cells})
    if boards and steps == {(plain.optimizer, plain.batch)}:
        print(
            "costsim: note: solvers are compared on a step of sgd over 1 sample; costsim plan "
            "plans one of adam over all samples, but on microcontrollers (--optimizer, --batch)",
            file=sys.stderr,
        )


def _settings(given: CompareOptions) -> dict[str, Any]:
    """The entries of the study's settings that options replace."""
    inspect = given.inspect
    number = None if inspect is None else parse_count(inspect)
    found: dict[str, Any] = {
        "criterion": given.criterion,
        "axis": given.axis,
        "inspect": inspect if number is None else number,
        "batch": given.batch,
        "optimizer": given.optimizer,
        "time-limit": given.time_limit,
        "accuracy": given.accuracy,
        "layers": list(given.layers) or None,
        "exclude": list(given.exclude) or None,
    }
    return {name: value for name, value in found.items() if value is not None}
