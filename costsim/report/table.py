"""A plan on a terminal: readable at 80 columns, without colour and through a pipe."""

import re
from collections.abc import Iterable, Iterator

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from costsim.base.units import counted, format_bytes, format_macs, format_percent
from costsim.ir.graph import LayerGraph
from costsim.report.budgets import BudgetUse
from costsim.report.costs import cost_rows
from costsim.report.summary import ChosenLayer, Summary
from costsim.solving.planfile import PlanFile

BAR_CELLS = 20


def render_plan(console: Console, plan: PlanFile, graph: LayerGraph) -> None:
    """Print `plan`, made for `graph`, to `console`.

    Texts of the plan are shown as they are: markup in a model's name is not obeyed. Raises
    `InputError` if the plan does not fit the graph.
    """
    summary = Summary(plan, graph)
    writer = _Writer(console.options.ascii_only)
    for part in writer.parts(summary):
        console.print(part)
        console.print()


class Dotted:
    """A dotted name, which is broken after its dots where it must be."""

    def __init__(self, name: Text) -> None:
        self.name = name

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self.name)

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> Iterator[Text]:
        lines = [""]
        for piece in re.findall(r"[^.]*\.|[^.]+", self.name.plain):
            if lines[-1] and cell_len(lines[-1] + piece) > options.max_width:
                lines.append("")
            lines[-1] += piece
        yield Text("\n".join(lines), overflow="fold")


class _Writer:
    """Turns a summary into what rich prints; in ASCII where the terminal knows nothing else."""

    def __init__(self, ascii_only: bool) -> None:
        self.ascii_only = ascii_only

    def parts(self, summary: Summary) -> Iterator[Table | Text]:
        """Everything to print, in order."""
        yield self.text(summary.answer, style="bold")
        yield self.headline(summary)
        if summary.budgets:
            yield self.uses(summary.budgets)
        if summary.task_budgets:
            yield self.uses(summary.task_budgets, "budget of the task")
        for name, other in summary.fleet:
            yield self.uses(other.budgets, f"on {name}")
        if summary.file.predicted is not None:
            yield self.costs(summary)
            if summary.chosen:
                yield self.layers(summary)
            yield self.text(_footnote(summary))
        for heading, sentences in summary.explanation:
            yield self.explanation(heading, sentences)

    def explanation(self, heading: str, sentences: tuple[str, ...]) -> Table:
        """Sentences under a heading, one a row."""
        table = self.table(heading)
        for sentence in sentences:
            table.add_row(self.text(sentence))
        return table

    def text(self, content: str, style: str = "") -> Text:
        """`content`, markup and all."""
        if self.ascii_only:
            content = content.replace("→", "->").replace("×", "x")
            content = content.encode("ascii", "replace").decode()
        return Text(content, style=style, overflow="fold")

    def table(self, *headings: str, numbers: tuple[int, ...] = ()) -> Table:
        """An empty table; the columns `numbers` are flush right and never broken."""
        table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        for index, heading in enumerate(headings):
            number = index in numbers
            table.add_column(
                heading, justify="right" if number else "left", no_wrap=number, overflow="fold"
            )
        return table

    def headline(self, summary: Summary) -> Table:
        """What was asked and who answered."""
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for label, content in summary.headline:
            table.add_row(label, self.text(content))
        return table

    def uses(self, budgets: Iterable[BudgetUse], heading: str = "budget of a step") -> Table:
        """Used and allowed, with a bar."""
        table = self.table(heading, "used", "allowed", "share", "", numbers=(1, 2, 3, 4))
        for use in budgets:
            share, bar = "-", ""
            if use.share is not None:
                share, bar = format_percent(use.share), self.bar(use.share)
            table.add_row(self.text(use.name), use.used or "-", use.allowed, share, bar)
        return table

    def bar(self, share: float) -> str:
        """`share` as a bar of `BAR_CELLS` cells."""
        cells = min(BAR_CELLS, round(share * BAR_CELLS))
        full, empty = ("#", ".") if self.ascii_only else ("█", "░")
        return full * cells + empty * (BAR_CELLS - cells)

    def costs(self, summary: Summary) -> Table:
        """Every predicted cost."""
        table = self.table("predicted", "", numbers=(1,))
        previous = ""
        for section, rows in cost_rows(summary.file):
            if previous:
                table.add_section()
            table.add_row(Text(section, style="bold"), "")
            for what, amount in rows:
                table.add_row(self.text(f"  {what}"), amount)
            previous = section
        return table

    def layers(self, summary: Summary) -> Table:
        """The chosen layers."""
        axes = {row.axis for row in summary.chosen if row.axis is not None}
        axis = next(iter(axes)) if len(axes) == 1 else None
        channels = "channels" if axis is None else f"{axis}\nchannels"
        # Names of layers need the room that a column of dashes would take.
        biased = any(row.bias for row in summary.chosen)
        bias = ("bias",) if biased else ()
        headings = ("layer", "kind", channels, *bias, "gain", "dW MACs", "kept")
        table = self.table(*headings, numbers=tuple(range(2, len(headings))))
        for row in summary.chosen:
            table.add_row(
                Dotted(self.text(row.name)),
                self.text(row.kind),
                _channels(row, with_axis=axis is None),
                *(("yes" if row.bias else "-",) if biased else ()),
                "-" if row.gain_share is None else format_percent(row.gain_share),
                format_macs(row.weight_gradient_macs),
                format_bytes(row.kept_bytes),
            )
        return table


def _channels(row: ChosenLayer, with_axis: bool) -> str:
    """How many channels of how many, and along which axis."""
    if row.axis is None:
        return "-"
    return f"{len(row.channels)}/{row.size}" + (f" {row.axis[:-3]}" if with_axis else "")


def _footnote(summary: Summary) -> str:
    return (
        "gain: share of that of updating everything inspected; dW: weight gradient. "
        f"{summary.unchosen:,} of {counted(len(summary.graph.layers), 'layer')} are not updated. "
        f"A tensor that several layers need kept is counted for the first; another "
        f"{format_bytes(summary.other_kept_bytes)} is kept so that gradients can pass "
        "non-linearities and products."
    )
