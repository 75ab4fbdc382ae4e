"""In what two plans differ, as a table."""

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from costsim.report.costs import cost_rows
from costsim.report.difference import Difference
from costsim.solving.planfile import PlanFile

LONGEST = 40
"""Characters of a value; of a longer one the beginning is shown."""


def difference_table(
    found: Sequence[Difference], files: tuple[PlanFile, PlanFile], names: tuple[str, str]
) -> Table:
    """A row for each difference, under the names of the two files.

    Costs are told in the words and units of a plan's own table.
    """
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("", overflow="fold")
    for name in names:
        table.add_column(Text(name), overflow="fold")
    for part in dict.fromkeys(one.part for one in found):
        if part == "predicted":
            rows = list(_costs(*files))
        elif part == "device" and len({_name(file) for file in files}) > 1:
            keys = sum(one.part == part for one in found)
            left, right = map(_name, files)
            rows = [(part, "", ""), (f"{keys} keys (--json names them)", left, right)]
        else:
            rows = [(one.key, one.left, one.right) for one in found if one.part == part]
            rows.insert(0, (part, "", ""))
        for key, left, right in rows:
            is_heading = left == right == ""
            word = Text(key, style="bold") if is_heading else Text(f"  {key}")
            table.add_row(word, Text(_shown(left)), Text(_shown(right)))
    return table


def _name(file: PlanFile) -> str | None:
    return None if file.device is None else file.device.name


def _costs(left: PlanFile, right: PlanFile) -> Iterator[tuple[str, str | None, str | None]]:
    """The rows of both that differ, under their headings."""
    sections = [dict(cost_rows(left)), dict(cost_rows(right))]
    for heading in dict.fromkeys(name for section in sections for name in section):
        one, other = (dict(section.get(heading, [])) for section in sections)
        differing = [key for key in dict.fromkeys((*one, *other)) if one.get(key) != other.get(key)]
        if differing:
            yield heading, "", ""
            yield from ((key, one.get(key), other.get(key)) for key in differing)


def _shown(value: object) -> str:
    if value is None:
        return "-"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
