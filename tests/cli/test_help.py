"""What `--help` says: examples, a sentence for every option, one way of writing it."""

import dataclasses
import gc
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click
import pytest

from costsim.cli import COMMAND_GROUPS, COMMANDS, main
from costsim.cli.command import OPTION_GROUPS, group_of
from costsim.cli.values import Quantity


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


def given_of(name: str) -> dict[str, object]:
    """What a command's function is given, by name: its own parameters, or its options' fields."""
    callback = command_of(name).callback
    assert callback is not None
    taken = list(inspect.signature(callback).parameters.values())
    assert all(one.kind is not one.VAR_KEYWORD for one in taken)
    kind = taken[0].annotation
    if dataclasses.is_dataclass(kind):
        assert len(taken) == 1
        return {field.name: field.type for field in dataclasses.fields(kind)}
    return {one.name: one.annotation for one in taken}


def read_type(parameter: click.Parameter) -> object:
    """What click makes of what was typed for a parameter."""
    match parameter.type:
        case Quantity(parse=parse):
            one: Any = get_type_hints(parse)["return"]
        case click.Path():
            one = Path
        case click.Choice() | click.types.StringParamType():
            one = str
        case click.types.IntParamType():
            one = int
        case click.types.FloatParamType():
            one = float
        case click.types.BoolParamType():
            one = bool
        case other:
            raise AssertionError(other)
    if parameter.nargs == -1 or (isinstance(parameter, click.Option) and parameter.multiple):
        return tuple[one, ...]
    flag = isinstance(parameter, click.Option) and parameter.is_flag and one is bool
    absent = parameter.to_info_dict().get("default") is None and not parameter.required
    asked_for_none = flag and parameter.default is None
    return one | None if asked_for_none or (absent and not flag) else one


@pytest.mark.parametrize("name", COMMANDS)
def test_what_a_command_takes_is_what_its_options_give(name: str) -> None:
    given = given_of(name)
    assert set(given) == {parameter.name for parameter in command_of(name).params}
    for parameter in command_of(name).params:
        taken, read = given[str(parameter.name)], read_type(parameter)
        if read == (str | None) and type(None) in get_args(taken) and taken != read:
            (taken,), read = [one for one in get_args(taken) if one is not type(None)], str
        if get_origin(taken) is Literal:
            assert isinstance(parameter.type, click.Choice)
            assert read is str
            assert set(get_args(taken)) == set(parameter.type.choices)
        else:
            assert taken == read, parameter.name


def test_a_misspelt_option_is_no_attribute() -> None:
    kinds = [given_of(name) for name in COMMANDS]
    assert all("Any" not in str(kind) for given in kinds for kind in given.values())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_stands_below_a_heading(name: str) -> None:
    """`OPTION_GROUPS` says below which; what it lacks would stand below `Other`."""
    groups = {option.opts[0]: group_of(name, option) for option in options_of(name)}
    assert {*groups.values()} <= {*OPTION_GROUPS}, groups
    context = click.Context(command_of(name), info_name=name)
    shown = click.unstyle(command_of(name).get_help(context))
    headings = [line[:-1] for line in shown.splitlines() if re.fullmatch(r"[A-Z].*:", line)]
    wanted = [head for head in OPTION_GROUPS if head in groups.values() or head == "Output"]
    assert headings[: len(wanted)] == wanted


def test_no_option_stands_below_two_headings_and_none_is_told_that_nobody_has() -> None:
    told = [key for names in OPTION_GROUPS.values() for key in names]
    assert len(told) == len(set(told))
    there = {name for one in COMMANDS for option in options_of(one) for name in option.opts}
    assert {f"--{key}" for key in told} - there == {"--help"}


def test_commands_are_told_by_what_one_wants(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    headings = re.findall(r"^(\w[\w ]*):$", shown, re.MULTILINE)
    assert headings == ["Options", *COMMAND_GROUPS]
    assert all(re.search(rf"^  {name} +[A-Z]", shown, re.MULTILINE) for name in COMMANDS)


def test_a_command_that_was_misspelt_is_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["valdate"]) == 2
    assert "no command 'valdate'; did you mean 'validate'? there are " in capsys.readouterr().err
    assert main(["plan", "--devise", "jetson-nano"]) == 2
    assert "'--device'" in capsys.readouterr().err


def test_target_is_a_compute_target_wherever_it_is_taken() -> None:
    for name in COMMANDS:
        for option in options_of(name):
            if "--target" in option.opts:
                assert (option.help or "").startswith("Compute target of the device")


def test_the_former_name_of_an_option_is_refused_with_the_present_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["export", "plan.json", "--target", "c", "--out", "firmware"]) == 2
    told = "costsim: --target is a compute target elsewhere; the language is --language\n"
    assert capsys.readouterr().err == told
    assert main(["export", "plan.json", "--tarket", "c", "--out", "firmware"]) == 2
    assert "No such option" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_data_of_one_split_is_named_the_same_way_everywhere(name: str) -> None:
    """Either an option says it, or the path."""
    for option in options_of(name):
        if "--data" in option.opts:
            words = (option.help or "") + "".join(
                one.help or "" for one in options_of(name) if "--split" in one.opts
            )
            assert re.search(r"PATH::", words), name


def test_a_command_leaves_the_collector_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    during = []

    def run(_argv: object) -> int:
        during.append(gc.get_threshold())
        return 0

    monkeypatch.setattr("costsim.cli._run", run)
    for before in ((700, 10, 10), (0, 5, 5)):
        usual = gc.get_threshold()
        gc.set_threshold(*before)
        try:
            main(["models"])
            after = gc.get_threshold()
        finally:
            gc.set_threshold(*usual)
        assert after == before
    assert during == [(10_000, 10, 10), (0, 5, 5)]
