"""HTML pages that need nothing else: no script, no network, no other file."""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from costsim import __version__


@dataclass(frozen=True)
class Picture:
    """The same picture for a wide and for a narrow page; without `narrow` one does for both."""

    wide: Markup
    narrow: Markup | None = None


@dataclass(frozen=True)
class Made:
    """What made a page: the words of the command line after `costsim`, and when, in UTC."""

    words: tuple[str, ...]
    when: datetime

    @property
    def command(self) -> str:
        """As a shell reads it."""
        return shlex.join(("costsim", *self.words))


def render_template(
    name: str,
    *,
    filters: Mapping[str, Callable[..., Any]] | None = None,
    version: str = __version__,
    made: Made | None = None,
    **values: object,
) -> str:
    """The page that the template `name` of this folder makes of `values`.

    The same input gives the same bytes; `made` ends the page, where it is known. A value that the
    template asks for and that is not given is an error.
    """
    found = environment()
    found.filters |= dict(filters or {})
    css = resources.files("costsim.report").joinpath("page.css").read_text()
    return found.get_template(name).render(css=Markup(css), version=version, made=made, **values)


def environment() -> Environment:
    """What reads the templates of this folder: escapes, and asks for every value."""
    return Environment(
        loader=PackageLoader("costsim.report", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
