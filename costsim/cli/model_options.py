"""Options of the model that is planned or trained: which, with which weights, trusted by whom."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import click

from costsim.base.errors import InputError
from costsim.cli import completion
from costsim.cli.options import F, path_option, together

moved_weights_option = path_option(
    "--weights", help="Weights of the model, where they are no longer at the plan's place."
)
resolution_option = click.option(
    "--resolution",
    type=int,
    metavar="N",
    help="Side of the images in pixels, or tokens in a sample.  [default: what the model's "
    "attribute resolution says, or input_shape (channels, height, width); else 128]",
)


MODELS = "A built-in network, or code of yours: net.py:make, package.module:make"
"""What `--model` takes, whoever asks."""


def model_option(kinds: str) -> Callable[[F], F]:
    """`--model`, of these kinds, `--model-args` and `--output`; `model_spec` puts them together."""
    return together(
        click.option(
            "--model",
            default="mcunet-5fps",
            show_default=True,
            metavar="MODEL",
            callback=naming,
            shell_complete=completion.models,
            help=kinds,
        ),
        click.option(
            "--model-args",
            multiple=True,
            metavar="NAME=VALUE",
            help="Arguments of the code that makes the model, each value as YAML; or several as "
            "'{width: 0.5, classes: 10}'.",
        ),
        click.option(
            "--output",
            metavar="NAME",
            help="Which output of a model with several: a name or a number, or a path such as "
            "heads.1.  [default: logits, else the first]",
        ),
    )


class ModelOptions(Protocol):
    """What `model_option` read."""

    @property
    def model(self) -> str:
        """As it was typed."""

    @property
    def model_args(self) -> tuple[str, ...]:
        """Of what makes it."""

    @property
    def output(self) -> str | None:
        """Which of several."""


def model_spec(given: ModelOptions) -> str:
    """All that was said of the model as one text, which files may name from now on.

    Raises `InputError` for arguments and outputs of what has none.
    """
    from costsim.base.code import is_code, with_arguments
    from costsim.base.trust import name_from_now_on

    spec = with_arguments(given.model, given.model_args, "--model-args", "model")
    if given.output is not None:
        if not is_code(spec):
            raise InputError(f"--output: {spec} has one; those of code may have several")
        spec = f"{spec}[{given.output}]"
    name_from_now_on(spec)
    return spec


def naming(_context: click.Context, _parameter: click.Parameter, given: object) -> object:
    """The models that were typed, which files may name from now on; see `costsim.base.trust`."""
    from costsim.base.trust import name_from_now_on

    for spec in given if isinstance(given, tuple) else (given,):
        if spec is not None:
            name_from_now_on(spec)
    return given


named_models_option = click.option(
    "--model",
    "named_models",
    multiple=True,
    metavar="MODEL",
    callback=naming,
    help="Run this code (net.py:make) where a file names it.  [default: those that you named "
    "before and whose module has not changed since, as kept in costsim/named-code in "
    "$XDG_STATE_HOME, ~/.local/state]",
)


trust_option = click.option(
    "--trust",
    "trusted",
    multiple=True,
    metavar="CODE",
    callback=naming,
    help="Run this code (my.py:Mine, or my.py for all of it) where the file names it; may be "
    "repeated.  [default: what you named before and has not changed since]",
)


def check_named_models(named_models: Sequence[str], spec: str, file: Path) -> None:
    """Raise `InputError` if others were named than the model `spec` of a plan."""
    for named in named_models:
        if named != spec:
            raise InputError(f"--model {named}: {file} was made for {spec}")


def weights_option(
    words: str = "Weights for the model; random: none, but those of the seed.  [default: those "
    "that come with it, if any]",
) -> Callable[[F], F]:
    """`--weights`."""
    return path_option("--weights", help=words)
