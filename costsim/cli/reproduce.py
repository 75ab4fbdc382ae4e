"""`costsim reproduce`: what a paper prints, and what is predicted for the same."""

from dataclasses import dataclass
from pathlib import Path

import click

from costsim.base.files import to_json_text, write_atomically
from costsim.cli.command import Command
from costsim.cli.options import check_writable, json_option, path_option
from costsim.cli.progress import progress_on_stderr
from costsim.cli.signature import taking
from costsim.studies.published import REPRODUCTIONS


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions:
    """What was typed of `costsim reproduce`."""

    name: str
    out: Path | None
    as_json: bool


@click.command("reproduce", cls=Command, listed={"Reproductions": REPRODUCTIONS.entries})
@click.argument("name", metavar="NAME")
@path_option("--out", help="Write all rows with their sources as JSON.")
@json_option()
@taking(ReproduceOptions)
def command(given: ReproduceOptions) -> int:
    """Put what a paper prints of costs beside what is predicted for the same, with the ratio.

    Everything is priced anew from the shipped device files; nothing is run. A row says where its
    published figure is from, and whether a rate of a device was fitted to it: such a row shows how
    well the fit went, and only the others are a test. The tables are Markdown.

    \b
    Examples
      costsim reproduce paper-costs
      costsim reproduce paper-costs --out costs.json > costs.md
    """
    REPRODUCTIONS.check(given.name)
    check_writable(given.out, "--out")
    from costsim.report.published import render_comparison

    with progress_on_stderr() as progress:
        comparison = REPRODUCTIONS[given.name].compare(progress)
    text = to_json_text(comparison.to_json())
    if given.out is not None:
        write_atomically(given.out, text)
    click.echo(text if given.as_json else render_comparison(comparison), nl=False)
    return 0
