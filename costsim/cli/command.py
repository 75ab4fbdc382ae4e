"""How every command's help is laid out: options by what they are of, and what they choose from.

One table says of each option which group it is in, whichever command has it, so that the same
thing stands under the same heading everywhere. Nothing here is loaded but click.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import click

from costsim.base.registry import Entry
from costsim.cli.colour import heading, typed_name
from costsim.cli.defaults import project_defaults, tell_used
from costsim.cli.overwriting import WRITTEN, check_not_read

GROUPED = {
    "What to do": (
        "from plan drift remove adaptation accuracy explain solve-for share new compare schema "
        "firmware to prefix"
    ),
    "Device": "device target compute-target like core clock ram flash",
    "Machine": (
        "on threads folder identity known-hosts trust-new-host torch-device precision jobs "
        "scheduler memory-limit backend"
    ),
    "Model": "model model-args output weights resolution trust",
    "Data": (
        "data split transfer source source-tasks episode ways shots queries tracks support held-out"
    ),
    "Budgets": (
        "memory accounting macs latency energy budget task-time task-energy task-macs storage"
    ),
    "Recipe": (
        "iterations free-passes steps episodes batch micro-batch recompute optimizer learning-rate "
        "momentum weight-decay warmup auxiliary bits augment image-interval means-interval copies "
        "cache seed"
    ),
    "Choosing": (
        "method guard solver time-limit criterion loss axis inspect layers exclude bias against "
        "points all"
    ),
    "Running": (
        "resume checkpoint checkpoint-every eval-every repeats probes store show port no-browser"
    ),
    "Output": (
        "out plan-out language report json csv latex picture reference measurement validation half "
        "log help"
    ),
}
"""Headings of a help page in order, and the options below each without their dashes."""

OPTION_GROUPS: Mapping[str, frozenset[str]] = {
    head: frozenset(names.split()) for head, names in GROUPED.items()
}

KEYS = frozenset(name for names in OPTION_GROUPS.values() for name in names) - {"help"}
"""All of them that a project may have defaults for."""

WIDEST_NAME = 26
"""Letters of a name that words still stand beside; those of a longer one stand below it."""

OTHER = "Other"
"""For an option that the table lacks; a test finds it."""

TYPED = "costsim.typed"
"""Where a context keeps the words of its command line."""

ELSEWHERE: Mapping[tuple[str, str], str] = {
    ("calibrate", "time-limit"): "Machine",
    ("measure", "time-limit"): "Machine",
    ("measure", "steps"): "Running",
    ("validate", "steps"): "Running",
    ("study", "accounting"): "Output",
}
"""Options that are of something else in one command than in the others."""


SAVING_OVER = frozenset({"explore"})
"""Commands that write when a person presses Save, also over what they have opened."""


RENAMED: Mapping[tuple[str, str], str] = {
    ("export", "--target"): "--target is a compute target elsewhere; the language is --language",
}
"""Options that had another name, by command, with what to say to whoever types the old one."""


def group_of(command: str, option: click.Parameter) -> str:
    """The heading that an option of a command stands below."""
    names = {name.removeprefix("--") for name in option.opts}
    for name in names:
        if (command, name) in ELSEWHERE:
            return ELSEWHERE[command, name]
    return next((head for head, known in OPTION_GROUPS.items() if names & known), OTHER)


class Command(click.Command):
    """A command whose help groups its options, and ends with what there is to choose from."""

    def __init__(
        self,
        *args: Any,
        listed: Mapping[str, Mapping[str, Entry]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.listed = listed or {}

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """As click does it, with the project's defaults for what is not typed."""
        completing = extra.get("resilient_parsing", False)
        unasked = completing or {"-h", "--help"} & {*args}
        defaults = None if unasked else project_defaults()
        if defaults is not None:
            defaults.check(_beside(self, parent), KEYS)
            extra["default_map"] = defaults.of(self)
        typed = (str(self.name), *args)  # click takes them out of `args` as it reads them
        context = super().make_context(info_name, args, parent, **extra)
        context.meta[TYPED] = typed
        if defaults is not None:
            tell_used(context, defaults)
        return context

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does it; an option's former name is refused with the present one."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if told := RENAMED.get((str(self.name), error.option_name)):
                raise click.UsageError(told, ctx) from error
            raise

    def invoke(self, ctx: click.Context) -> Any:
        """As click does it, where nothing that is read would be written over."""
        check_not_read(ctx, frozenset() if self.name in SAVING_OVER else WRITTEN)
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options below their headings, and behind them what they choose from."""
        sections: dict[str, list[tuple[str, str]]] = {
            head: [] for head in (*OPTION_GROUPS, OTHER, *self.listed)
        }
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx)
            if record is not None and isinstance(option, click.Option):
                sections[group_of(self.name or "", option)].append(record)
        for head, entries in self.listed.items():
            sections[head] = [(name, entry.words) for name, entry in entries.items()]
        write_sections(formatter, sections)


def typed_words() -> tuple[str, ...]:
    """The command and what was typed after it, as the shell gave it."""
    words: tuple[str, ...] = click.get_current_context().meta[TYPED]
    return words


def _beside(command: click.Command, parent: click.Context | None) -> Collection[str]:
    """The names of the commands of its group, itself among them."""
    if parent is not None and isinstance(parent.command, click.Group):
        return parent.command.list_commands(parent)
    return (str(command.name),)


def write_sections(
    formatter: click.HelpFormatter, sections: Mapping[str, Sequence[tuple[str, str]]]
) -> None:
    """Headings with lines of a name and what it is, all in two columns; none without lines."""
    names = [len(name) for rows in sections.values() for name, _ in rows]
    width = min(max(names, default=0), WIDEST_NAME)
    for head, rows in sections.items():
        if rows:
            with formatter.section(heading(head)):
                formatter.write_dl(
                    [(typed_name(name.ljust(width)), words) for name, words in rows], WIDEST_NAME
                )
