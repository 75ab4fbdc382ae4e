"""`costsim models`: the built-in networks, counted from their rows without loading torch."""

import json

import click

from costsim.cli.command import Command
from costsim.cli.options import json_option
from costsim.models.networks import NETWORKS, Architecture


def describe(architecture: Architecture) -> dict[str, str | int]:
    """One built-in network as the command lists it: counts for one image, batch norm folded."""
    from costsim.models.networks.graph import architecture_graph

    graph = architecture_graph(architecture)
    return {
        "name": architecture.name,
        "resolution": architecture.resolution,
        "layers": len(graph.layers),
        "parameters": sum(parameter.size for parameter in graph.parameters),
        "forward_macs": graph.forward_macs(),
        "features": architecture.features,
        "source": architecture.source,
    }


@click.command("models", cls=Command)
@json_option()
def command(as_json: bool) -> None:
    """List the built-in networks, counted without classifier and for one image.

    \b
    Examples
      costsim models
      costsim models --json
    """
    rows = [describe(architecture) for architecture in NETWORKS.values()]
    if as_json:
        click.echo(json.dumps({"schema": "costsim.models/1", "models": rows}, indent=2))
        return
    from rich.table import Table

    from costsim.base.units import format_macs
    from costsim.cli.console import Console

    table = Table(
        title="Built-in networks (one image, batch norm folded, no classifier)",
        caption="Source: " + "; ".join(sorted({str(row["source"]) for row in rows})),
    )
    table.add_column("model", no_wrap=True)
    for heading in ("image", "layers", "parameters", "forward", "features"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            str(row["name"]),
            f"{row['resolution']}×{row['resolution']}",
            str(row["layers"]),
            f"{row['parameters']:,}",
            format_macs(int(row["forward_macs"])),
            str(row["features"]),
        )
    Console().print(table)
