"""`costsim diff`: two plan files beside each other."""

from dataclasses import asdict, dataclass
from pathlib import Path

import click

from costsim.base.files import to_json_text
from costsim.cli.command import Command
from costsim.cli.options import json_option
from costsim.cli.signature import taking

SCHEMA = "costsim.difference/1"


@dataclass(frozen=True, kw_only=True)
class DiffOptions:
    """What was typed of `costsim diff`."""

    left: Path
    right: Path
    as_json: bool


@click.command("diff", cls=Command)
@click.argument("left", type=click.Path(path_type=Path), metavar="PLAN")
@click.argument("right", type=click.Path(path_type=Path), metavar="PLAN")
@json_option()
@taking(DiffOptions)
def command(given: DiffOptions) -> int:
    """Say in what two plans differ: what was asked, what was chosen, what it will cost.

    What a clock measured, the seconds of the solver, is no difference. The exit status is 0 where
    there is none and 1 where there is one.

    \b
    Examples
      costsim diff monday.json tuesday.json
      costsim diff pi.json nano.json --json
    """
    from costsim.report.difference import differences
    from costsim.solving.planfile import read_plan

    files = read_plan(given.left), read_plan(given.right)
    found = differences(*files)
    if given.as_json:
        document = {"schema": SCHEMA, "differences": [asdict(one) for one in found]}
        click.echo(to_json_text(document))
    elif not found:
        click.echo("No difference.")
    else:
        from costsim.cli.console import Console
        from costsim.report.difference_table import difference_table

        names = str(given.left), str(given.right)
        Console().print(difference_table(found, files, names))
    return 1 if found else 0
