"""`costsim study`: methods on models, domains, seeds and devices, kept in one file."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from costsim.base.errors import InputError
from costsim.base.extras import require
from costsim.base.files import to_json_text, write_atomically
from costsim.cli.cell_runs import progress_line, tell_computed, tell_failures, tell_notes
from costsim.cli.command import Command
from costsim.cli.made import made_now
from costsim.cli.model_options import named_models_option, trust_option
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
from costsim.learning.adaptation.guard import GUARDS
from costsim.learning.methods import METHODS
from costsim.pricing.accounting import ACCOUNTINGS

if TYPE_CHECKING:
    from costsim.studies.methods.analysis import MethodFindings
    from costsim.studies.methods.cells import MethodCell

MEMORY = (*ACCOUNTINGS, "autograd")


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """What was typed of `costsim study`."""

    file: Path
    store: Path | None
    named_models: tuple[str, ...]
    trusted: tuple[str, ...]
    jobs: int | None
    scheduler: str | None
    show: bool
    reference: str | None
    accounting: str
    report: Path | None
    table: Path | None
    latex: Path | None
    as_json: bool


@click.command("study", cls=Command, listed={"Methods": METHODS.entries, "Guards": GUARDS.entries})
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE.yaml")
@path_option(
    "--store",
    help="SQLite file with a row for each finished cell; what it has is not computed again.  "
    "[default: FILE.sqlite]",
)
@named_models_option
@trust_option
@jobs_option
@scheduler_option
@click.option("--show", is_flag=True, help="Show what is there; compute nothing.")
@click.option(
    "--reference",
    metavar="METHOD",
    help="What accuracies are held against.  [default: None, or the first]",
)
@click.option(
    "--accounting", type=click.Choice(MEMORY), default="peak", show_default=True,
    help="Of the memory in tables and picture.",
)  # fmt: skip
@page_option()
@rows_option
@path_option("--latex", help="Write the table as LaTeX.")
@json_option("Print the findings as JSON.")
@taking(StudyOptions)
def command(given: StudyOptions) -> int:
    """Run every method of FILE.yaml on every model, domain, seed and device in it.

    A cell is one adaptation. What is finished is kept: a run that is stopped, however, goes on
    where it was with the same command, and repeats nothing; several at once on one store share the
    work. The exit status is 1 if a cell failed.

    Only models, methods and domains must be there; methods and guards are those below, data as
    --data of costsim adapt. A method with several learning rates is reported, for each domain, at
    the one that is best on the others. Methods that choose the same for all tasks do so by tasks
    of other images, the source.

    \b
    FILE.yaml
      models: [mcunet-5fps, {model: mbv2-w0.35, weights: mbv2.pkl, name: ImageNet}]
      methods: [None, TinyTrain, {method: GainTrain, guard: 2-fold, name: safe},
                {method: FullTrain, learning-rate: [0.0003, 0.001]}]
      domains: [digits, {data: signs.zip, split: test, name: signs}]
      seeds: 20                   # tasks of each domain, or a list of seeds
      devices: [jetson-nano]      # names, or files
      episode: meta-dataset       # or {ways: 10, shots: 5, queries: 10}
      budget: recommended         # or {memory: 256KiB, macs: 15%}
      settings: {iterations: 40, optimizer: adam, copies: 8}
      source: {data: photos.zip, split: val, tasks: 10}

    \b
    Examples
      costsim study examples/study.yaml --report study.html
      costsim study examples/study.yaml --scheduler tcp://10.0.0.5:8786
      costsim study examples/study.yaml --show --latex table.tex --csv cells.csv
    """
    file, store_path = given.file, given.store
    if store_path is None:
        store_path = file.with_suffix(".sqlite")
    check_outputs(
        {
            "--store": store_path,
            "--csv": given.table,
            "--report": given.report,
            "--latex": given.latex,
        },
        {"FILE.yaml": file},
    )
    if given.scheduler:
        require("cluster", "--scheduler")
    if given.show and given.scheduler:
        raise InputError("--show computes nothing; leave --scheduler out")

    from costsim.studies.engine import StudyStore, read_entries, read_study, run_study
    from costsim.studies.methods import MethodStudies
    from costsim.studies.methods.analysis import analyse

    kind = MethodStudies()
    check_not_named(texts_of(read_entries(file, kind)), file, "names")
    cells = read_study(file, kind).cells()
    labels = list(dict.fromkeys(cell.method.label for cell in cells))
    if given.reference is not None and given.reference not in labels:
        raise InputError(f"--reference {given.reference!r}: the study has {', '.join(labels)}")
    store = StudyStore(store_path, kind, read_only=given.show)
    if not given.show:
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
        tell_computed(computed, len(cells), begun)
    findings = analyse(store.rows_of(cells), len(cells), given.reference)
    _write(given, findings, cells)
    tell_notes(findings.rows)
    tell_failures(findings.failures, ("method", "model", "device", "domain"))
    return 1 if findings.failures else 0


def _write(given: StudyOptions, findings: "MethodFindings", cells: "Sequence[MethodCell]") -> None:
    from costsim.report.study import render_study
    from costsim.report.study_files import study_csv, study_latex
    from costsim.report.study_table import print_study

    accounting = given.accounting
    if given.table:
        write_atomically(given.table, study_csv(findings))
    if given.latex:
        write_atomically(given.latex, study_latex(findings, accounting))
    if given.report:
        write_atomically(given.report, render_study(findings, accounting, cells, made_now()))
    if given.as_json:
        click.echo(to_json_text(findings.to_json()))
    else:
        from costsim.cli.console import Console

        print_study(Console(), findings, accounting)
