"""What `--help` says: examples, a sentence for every option, one way of writing it."""

import importlib
import re
from collections.abc import Iterator

import click
import pytest

from costsim.cli import COMMANDS


def command_of(name: str) -> click.Command:
    command: click.Command = importlib.import_module(f"costsim.cli.{name}").command
    return command


def options_of(name: str) -> Iterator[click.Option]:
    return (one for one in command_of(name).params if isinstance(one, click.Option))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_of_itself(name: str) -> None:
    assert re.search(rf"^ +costsim {name}\b", command_of(name).help or "", re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_sentence_and_then_its_default(name: str) -> None:
    for option in options_of(name):
        assert re.fullmatch(r".*\.(  \[default: [^]]*\])?", option.help or ""), option.opts


@pytest.mark.parametrize("name", COMMANDS)
def test_what_an_option_takes_is_named(name: str) -> None:
    context = click.Context(command_of(name))
    for option in options_of(name):
        assert option.is_flag or option.make_metavar(context) not in ("INTEGER", "FLOAT", "TEXT")
