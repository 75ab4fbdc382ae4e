"""The command line: one file a command, imported only when it is called.

`main` is what tests call; it never lets an exception of this library reach a person as a
traceback. Exit status 0 done, 1 the answer is no, 2 unusable input; 130 interrupted, 141 where
whoever reads stdout has gone (`costsim plan ... | head -1`), as shells count signals 2 and 13.
"""

import contextlib
import gc
import importlib
import io
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import click

from costsim import __version__
from costsim.base.errors import CostsimError, Mistakes, Note, one_line, shortened
from costsim.base.nearness import hint
from costsim.base.units import parse_count
from costsim.cli.command import write_sections
from costsim.cli.completion import VARIABLE, begun, check_question

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

COMMAND_GROUPS: Mapping[str, Mapping[str, str]] = {
    "Plan": {
        "plan": "Choose what to update within a device's budgets, and price it.",
        "explore": "Drag budgets in a page, and see the proven plan follow.",
        "pareto": "Draw the proven frontier of gain against a budget, other methods beside it.",
        "inspect": "Price a network's inference and training, layer by layer, without data.",
    },
    "Look": {
        "show": "Show a plan that was made before, or its page.",
        "diff": "Say in what two plans differ.",
        "devices": "List the shipped devices, or show one with the source of every number.",
        "models": "List the built-in networks.",
        "examples": "List the examples and templates that come along, or write one.",
    },
    "Train": {
        "train": "Fine-tune what a plan chose, and write the outcome as a patch.",
        "apply": "Put a patch on the model it was made for, or take it off again.",
        "adapt": "Adapt a network to one task by any method, priced on a device.",
        "pretrain": "Meta-train a backbone on few-shot episodes of images.",
    },
    "Prove on a machine": {
        "validate": "Run a plan's training step and put measured beside predicted.",
        "measure": "Run a plan's step on real devices, predicted beside measured.",
        "calibrate": "Measure a device and fit its spec, refine it, or follow how far off it is.",
        "export": "Write the training step of a plan as C for a microcontroller.",
    },
    "Study": {
        "study": "Run methods on models, domains, seeds and devices, resumably.",
        "compare": "Compare solvers over models, devices, budgets and tasks, resumably.",
        "reproduce": "Put costs that a paper prints beside the predicted ones.",
    },
}
"""The commands by what one wants, with what each does."""

COMMANDS = {name: words for group in COMMAND_GROUPS.values() for name, words in group.items()}

INTERRUPTED = 130
NOBODY_READS = 141

LONGEST_WORD = 320
"""Characters; a longer one in a message is a value or a path of nobody's making."""

LONGEST_LINE = 4000
"""Characters; a message of more is what somebody else said."""

FEWEST_COLUMNS = 20
"""Of a terminal that a table can be read on."""

MOST_COLUMNS = 10_000
"""Of any terminal."""


class _LazyGroup(click.Group):
    """A group whose commands live in `costsim.cli.<name>` as `command`, loaded on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"costsim.cli.{cmd_name}").command
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        """The commands with their words; none of them is loaded."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return begun(COMMANDS.items(), incomplete)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            told = hint(args[0], COMMANDS)
            ctx.fail(f"no command {args[0]!r}; {told}there are {', '.join(COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_sections(formatter, {name: [*of.items()] for name, of in COMMAND_GROUPS.items()})


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="costsim")
def cli() -> None:
    """Plan, price and check sparse training on devices too small to train on.

    Start with: costsim plan --device jetson-nano
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status."""
    _make_the_best_of_the_terminal()
    try:
        with _notes_on_stderr(), _collecting_seldom():
            return _run(argv)
    except BrokenPipeError:
        _give_up_stdout()
        return NOBODY_READS


OBJECTS_BETWEEN_COLLECTIONS = 10_000


@contextlib.contextmanager
def _collecting_seldom() -> Iterator[None]:
    """Look for garbage after more new objects than Python does by itself.

    Importing PyTorch makes hundreds of thousands that all stay, and going through them again and
    again was a sixth of the processor time of a plan from cold.
    """
    usual = gc.get_threshold()
    if usual[0]:  # else it is off, and stays so
        gc.set_threshold(max(usual[0], OBJECTS_BETWEEN_COLLECTIONS), *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)


def _run(argv: Sequence[str] | None) -> int:
    try:
        if os.environ.get(VARIABLE):
            from costsim.cli.bash_completion import quote_in_bash

            quote_in_bash()
            check_question(os.environ)
        result = cli.main(args=argv, prog_name="costsim", standalone_mode=False)
        if sys.stdout is not None:  # closed by whoever started this
            sys.stdout.flush()
    except Mistakes as error:
        for line in error.lines:
            _tell(line)
        return 2
    except CostsimError as error:
        _tell(str(error))
        return 2
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.ClickException as error:
        _tell(error.format_message())
        return 2
    except SystemExit as error:
        return _ended(error)
    except BrokenPipeError:
        raise
    except OSError as error:  # most files have errors of their own: what is left is stdout
        where = "" if error.filename is None else f"{error.filename}: "
        _tell(f"cannot go on: {where}{error.strerror or error}")
        return 2
    except MemoryError:
        _tell("cannot go on: there is not enough memory")
        return 2
    except (click.Abort, KeyboardInterrupt):
        return _interrupted()
    except RuntimeError as error:
        if not isinstance(error.__cause__, KeyboardInterrupt):
            raise
        return _interrupted()  # while a class was made: Python 3.11 wraps what its fields raise
    return result if isinstance(result, int) else 0


def _ended(error: SystemExit) -> int:
    """The status where something asked Python to end: click and rich, or others' code."""
    if os.environ.get(VARIABLE) and error.code in (0, 1):  # a shell was answered
        return int(error.code)
    if error.code == 1:  # what click and rich make of a broken pipe
        raise BrokenPipeError from error
    _tell(f"cannot go on: code that was called ended the program: SystemExit: {error.code}")
    return 2


def _interrupted() -> int:
    print("costsim: interrupted", file=sys.stderr)
    return INTERRUPTED


def _tell(text: str) -> None:
    """One line on stderr, whatever is in it."""
    words = (shortened(word, LONGEST_WORD) for word in text.split())
    line = one_line(" ".join(words), LONGEST_LINE).encode("utf-8", "backslashreplace").decode()
    print(f"costsim: {line}", file=sys.stderr)


@contextlib.contextmanager
def _notes_on_stderr() -> Iterator[None]:
    """Whatever the library says as a `Note` is one line there, once."""
    told: set[str] = set()
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *more: object) -> None:
            if not issubclass(category, Note):
                usual(message, category, *more)  # type: ignore[arg-type]
            elif str(message) not in told:
                told.add(str(message))
                _tell(f"note: {message}")

        warnings.showwarning = show  # type: ignore[assignment]
        warnings.simplefilter("always", Note)
        yield


def _make_the_best_of_the_terminal() -> None:
    """Output that its encoding has no letter for is escaped; a width that nothing fits is ignored.

    Some shells, serial consoles and build systems say that there are 0 columns.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    for name, fewest in (("COLUMNS", FEWEST_COLUMNS), ("LINES", 1)):
        number = parse_count(os.environ.get(name, ""), least=fewest)
        if number is None or number > MOST_COLUMNS:
            os.environ.pop(name, None)


def _give_up_stdout() -> None:
    """Let what is still to be written, at the latest when Python ends, go nowhere."""
    with contextlib.suppress(OSError, ValueError):  # no file, as in a test
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
