"""HTML pages that need nothing else: no script, no network, no other file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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


def render_template(
    name: str,
    *,
    filters: Mapping[str, Callable[..., Any]] | None = None,
    version: str = __version__,
    **values: object,
) -> str:
    """The page that the template `name` of this folder makes of `values`.

    The same input gives the same bytes. A value that the template asks for and that is not given
    is an error.
    """
    environment = Environment(
        loader=PackageLoader("costsim.report", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= dict(filters or {})
    css = resources.files("costsim.report").joinpath("page.css").read_text()
    return environment.get_template(name).render(css=Markup(css), version=version, **values)
