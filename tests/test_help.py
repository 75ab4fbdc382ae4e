"""What `--help` says."""

import importlib
import re

import click
import pytest

from costsim.cli import COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_of_itself(name: str) -> None:
    command: click.Command = importlib.import_module(f"costsim.cli.{name}").command
    assert re.search(rf"^ +costsim {name}\b", command.help or "", re.MULTILINE)
