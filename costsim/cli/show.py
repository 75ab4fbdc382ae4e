"""`costsim show`: a plan that was made before, as when it was made."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from costsim.base.files import to_json_text, write_atomically
from costsim.cli.command import Command
from costsim.cli.made import made_now
from costsim.cli.model_options import moved_weights_option, named_models_option
from costsim.cli.options import check_writable, json_option, page_option, plan_argument
from costsim.cli.planned import given_plan
from costsim.cli.signature import taking

if TYPE_CHECKING:
    from costsim.ir.graph import LayerGraph
    from costsim.solving.planfile import PlanFile


@dataclass(frozen=True, kw_only=True)
class ShowOptions:
    """What was typed of `costsim show`."""

    plan: Path
    weights: Path | None
    named_models: tuple[str, ...]
    as_json: bool
    report: Path | None


@click.command("show", cls=Command)
@plan_argument
@moved_weights_option
@named_models_option
@json_option()
@page_option()
@taking(ShowOptions)
def command(given: ShowOptions) -> int:
    """Show PLAN as when it was made: what was asked, what was chosen, what it will cost.

    The plan file does not hold the scores of single channels, so that the page draws channels
    without them. The exit status is 1 if it holds no plan.

    \b
    Examples
      costsim show plan.json
      costsim show plan.json --report plan.html
    """
    check_writable(given.report, "--report")

    plan = given_plan(given.plan, given.named_models)
    if given.as_json and given.report is None:
        click.echo(to_json_text(plan.to_json()))
        return 0 if plan.predicted is not None else 1
    graph = _graph(plan, given)
    if given.report is not None:
        from costsim.report.page import render_page

        write_atomically(given.report, render_page(plan, graph, made=made_now()))
    if given.as_json:
        click.echo(to_json_text(plan.to_json()))
    else:
        from costsim.cli.console import Console
        from costsim.report.table import render_plan

        render_plan(Console(), plan, graph)
    return 0 if plan.predicted is not None else 1


def _graph(plan: "PlanFile", given: ShowOptions) -> "LayerGraph":
    """That of the plan's model; a built-in one is known without being built."""
    from costsim.models.networks import NETWORKS

    if plan.model.spec in NETWORKS:
        from costsim.models.networks.graph import architecture_graph

        return architecture_graph(
            plan.model.spec, batch=plan.step.samples_a_pass, resolution=plan.model.resolution
        )
    from costsim.learning.training.base_model import load_subject_of

    return load_subject_of(plan, str(given.plan), given.weights).graph
