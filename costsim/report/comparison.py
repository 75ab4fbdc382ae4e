"""A comparison study as one HTML file, on a terminal, and as JSON."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from costsim.base.intervals import STATISTIC
from costsim.base.units import counted, format_percent, format_seconds
from costsim.report.axes import NARROW, WIDE
from costsim.report.html import Made, Picture, render_template
from costsim.report.spots import Spot
from costsim.report.svg import COLOURS, drawing, to_svg
from costsim.studies.engine.notes import note_counts
from costsim.studies.solvers.analysis import (
    TIGHTNESS,
    Compared,
    Group,
    SolverFindings,
    by_budget,
    by_model,
    by_tightness,
    overall,
)
from costsim.studies.solvers.store import COLUMNS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BREAKABLE = re.compile(r"\b(to|than) ")
"""Words that a narrow picture breaks a class's name after."""

FEWEST_PLACES = 4
"""Of bars side by side, that there is room for."""

INKS = ("kept", "dweights", "weights", "optimizer", "gradient", "limit", "quiet")
"""Colours of the solvers, in order."""


def render_comparison(findings: SolverFindings, made: Made | None = None) -> str:
    """The page of a study: the same rows give the same bytes."""
    return render_template(
        "comparison.html",
        made=made,
        filters={"share": format_percent, "seconds": format_seconds},
        answer=findings.answer(),
        statistic=STATISTIC,
        headline=_headline(findings),
        tables=_tables(findings),
        pictures=_pictures(findings) if findings.compared else [],
        errors=[
            f"{r['solver']}, {r['model']}, {r['device']}, {r['budget']}, {r['domain']} "
            f"seed {r['seed']}: {r['reason']}"
            for r in findings.errors
        ],
        settings=sorted({str(row["settings"]) for row in findings.rows}),
    )


def comparison_csv(findings: SolverFindings) -> str:
    """The rows, with the loss against the optimum and the agreement where one is known."""
    beside = {one.row["key"]: one for one in findings.compared}
    names = [name for name in COLUMNS if name != "plan"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, "loss", "tightness", "agreement"])
    for row in findings.rows:
        one = beside.get(row["key"])
        extra = [None] * 3 if one is None else [one.loss, one.tightness, one.agreement]
        writer.writerow([*(row[name] for name in names), *extra])
    return text.getvalue()


def print_comparison(console: Console, findings: SolverFindings) -> None:
    """Print the findings to `console`."""
    for label, content in _headline(findings):
        console.print(Text(f"{label:<10} {content}"))
    for title, groups in _tables(findings):
        table = Table(
            box=SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
            padding=(0, 1, 0, 0),
            title=Text(title, style="bold"),
            title_justify="left",
        )
        for index, heading in enumerate(
            ("group", "solver", "n", "no plan", "loss", "optimal", "same", "time")
        ):
            table.add_column(heading, justify="right" if index > 1 else "left", overflow="fold")
        for group in groups:
            cells = (
                group.name,
                group.solver,
                str(group.problems),
                str(group.none),
                group.loss.told,
                format_percent(group.equal),
                format_percent(group.agreement),
                format_seconds(group.seconds),
            )
            table.add_row(*(Text(cell) for cell in cells))
        console.print()
        console.print(table)
    console.print()
    console.print(Text(f"{STATISTIC}."))
    for sentence in findings.answer():
        console.print(Text(sentence))


def to_json(findings: SolverFindings) -> dict[str, Any]:
    """The findings as one JSON document, schema `costsim.comparison/1`."""
    return {
        "schema": "costsim.comparison/1",
        "problems": findings.problems,
        "proven": findings.proven,
        "without_plan": findings.without_plan,
        "errors": len(findings.errors),
        "notes": dict(note_counts(findings.rows)),
        "answer": findings.answer(),
        "groups": {
            title: [asdict(group) | {"loss": group.loss.to_json()} for group in groups]
            for title, groups in _tables(findings)
        },
    }


def _headline(findings: SolverFindings) -> list[tuple[str, str]]:
    rows = findings.rows

    def names(column: str) -> str:
        return ", ".join(dict.fromkeys(str(row[column]) for row in rows)) or "none"

    tasks = {(row["domain"], row["seed"]) for row in rows}
    return [
        (
            "problems",
            f"{findings.problems}, of which {findings.proven} with a proven optimum and "
            f"{findings.without_plan} proven to have no plan; {counted(len(rows), 'cell')}",
        ),
        ("solvers", names("solver")),
        ("models", names("model")),
        ("devices", names("device")),
        ("budgets", names("budget")),
        ("tasks", f"{len(tasks)} from {names('domain')}"),
    ]


def _tables(findings: SolverFindings) -> list[tuple[str, list[Group]]]:
    compared = findings.compared
    return [
        ("All problems", overall(compared)),
        ("By tightness", by_tightness(compared)),
        ("By budget", by_budget(compared)),
        ("By model", by_model(compared)),
    ]


# Pictures.


def _pictures(findings: SolverFindings) -> list[tuple[Picture, str]]:
    inks = _inks(findings.compared)
    others = [one for one in findings.compared if one.row["status"] != "optimal"]
    found = []
    if others:
        found.append(
            (
                Picture(*(Markup(_losses(others, inks, w, f"losses-{n}")) for w, n in _WIDTHS)),
                "Mean loss against the proven optimum by tightness, with its 95 % interval "
                "where there are tasks enough for one.",
            )
        )
        found.append(
            (
                Picture(*(Markup(_scatter(others, inks, w, f"scatter-{n}")) for w, n in _WIDTHS)),
                "Each dot is a problem: how much of all gain the optimum reaches, and what share "
                "of that a solver misses. A hollow one has no plan within the budgets.",
            )
        )
    found.append(
        (
            Picture(
                *(Markup(_times(findings.compared, inks, w, f"times-{n}")) for w, n in _WIDTHS)
            ),
            "Time of one solve: the share of the problems that take at most so long.",
        )
    )
    return found


_WIDTHS = ((WIDE, "wide"), (NARROW, "narrow"))


Inks = Mapping[str, str]
"""The colour of each solver, the same in all pictures of a page."""


def _inks(compared: Sequence[Compared]) -> Inks:
    return {
        solver: COLOURS[INKS[index % len(INKS)]] for index, solver in enumerate(_solvers(compared))
    }


def _solvers(compared: Sequence[Compared]) -> list[str]:
    return list(dict.fromkeys(one.solver for one in compared))


def _legend(axes: "Axes", width: float) -> None:
    figure = axes.get_figure(root=True)
    assert figure is not None
    handles, labels = axes.get_legend_handles_labels()
    columns = 5 if width > NARROW else 2
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def _losses(compared: Sequence[Compared], inks: Inks, width: float, name: str) -> str:
    groups, solvers = by_tightness(compared), _solvers(compared)
    names = [n for _, n in TIGHTNESS if any(g.name == n for g in groups)]
    short = {n: n.removeprefix("optimum reaches ").partition(":")[0] for n in names}
    short = {n: text.replace(" of all gain", "") for n, text in short.items()}
    with drawing(width, 3.6) as figure:
        axes = figure.add_subplot()
        bar, spots = 0.8 / len(solvers), []
        for index, solver in enumerate(solvers):
            mine = [g for g in groups if g.solver == solver]
            places = [names.index(g.name) + (index - (len(solvers) - 1) / 2) * bar for g in mine]
            means = [100 * g.loss.value for g in mine]
            axes.bar(places, means, bar * 0.9, color=inks[solver], label=solver)
            spots += [
                Spot(axes, (p - bar / 2, p + bar / 2), (0.0, 100 * g.loss.value), _of_class(g))
                for p, g in zip(places, mine, strict=True)
            ]
            sure = [(p, 100 * g.loss.value, 100 * g.loss.half) for p, g in
                    zip(places, mine, strict=True) if g.loss.half is not None]  # fmt: skip
            if not sure:
                continue  # too few tasks: no interval is claimed
            centres, tops, halves = map(np.array, zip(*sure, strict=True))
            axes.errorbar(
                centres,
                tops,
                [np.minimum(halves, tops), halves],
                fmt="none",
                ecolor=COLOURS["ink"],
                elinewidth=1,
                capsize=2,
            )
        ticks = [
            text if width > NARROW else BREAKABLE.sub(r"\1\n", text) for text in short.values()
        ]
        axes.set_xticks(range(len(names)), ticks)
        axes.set_xlim(-0.5, max(len(names), FEWEST_PLACES) - 0.5)  # one class is no giant bar
        axes.set_ylabel("mean loss, %")
        axes.set_xlabel("share of all gain that the optimum reaches")
        _legend(axes, width)
        worst = max(groups, key=lambda group: group.loss.value)
        return to_svg(
            figure,
            name,
            "Loss against the proven optimum",
            f"The greatest mean is {format_percent(worst.loss.value)}, of {worst.solver}, "
            f"{worst.name}.",
            spots,
        )


def _of_class(group: Group) -> tuple[str, ...]:
    """What the bar of a solver says."""
    without = f", {group.none} without a plan" if group.none else ""
    return (
        group.solver,
        f"loss {group.loss.told}, at worst {format_percent(group.worst)}",
        f"{counted(group.problems, 'problem')}{without}",
    )


def _scatter(compared: Sequence[Compared], inks: Inks, width: float, name: str) -> str:
    solvers = _solvers(compared)
    with drawing(width, 3.6) as figure:
        axes = figure.add_subplot()
        for solver in solvers:
            for found, face in ((True, inks[solver]), (False, "none")):
                mine = [one for one in compared if one.solver == solver and one.has_plan is found]
                if mine:
                    axes.plot(
                        [100 * one.tightness for one in mine],
                        [100 * one.loss for one in mine],
                        "o",
                        markersize=5.5,
                        markerfacecolor=face,
                        markeredgecolor=inks[solver],
                        alpha=0.7,
                        label=solver if found else f"{solver}: no plan",
                    )
        axes.set_xlim(0, 102)
        axes.set_ylim(bottom=-1)
        axes.set_xlabel("share of all gain that the optimum reaches, %")
        axes.set_ylabel("loss, %")
        _legend(axes, width)
        spots = [Spot(axes, 100 * o.tightness, 100 * o.loss, _of_problem(o)) for o in compared]
        told = f"{len(compared)} answers of {', '.join(solvers)}."
        return to_svg(figure, name, "Loss by tightness", told, spots)


def _of_problem(one: Compared) -> tuple[str, ...]:
    """What the dot of an answer says."""
    row = one.row
    loss = f"loss {format_percent(one.loss)}" if one.has_plan else "no plan within the budgets"
    return (
        f"{one.solver}, {loss}",
        f"the optimum reaches {format_percent(one.tightness)} of all gain",
        f"{row['model']}, {row['device']}, {row['budget']}",
        f"{row['domain']} seed {row['seed']}",
    )


def _times(compared: Sequence[Compared], inks: Inks, width: float, name: str) -> str:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    solvers, spots = _solvers(compared), []
    with drawing(width, 3.2) as figure:
        axes = figure.add_subplot()
        longest = max(float(one.row["seconds"]) for one in compared) * 2
        for solver in solvers:
            seconds = sorted(float(o.row["seconds"]) for o in compared if o.solver == solver)
            shares = 100 * np.arange(len(seconds) + 1) / len(seconds)
            # from no problem at all upwards, and level from the last to the edge
            axes.step(
                [seconds[0], *seconds, longest],
                [*shares, 100],
                where="post",
                color=inks[solver],
                label=solver,
            )
            spots += [
                Spot(
                    axes,
                    took,
                    share,
                    (solver, f"{share:.0f} % take {format_seconds(took)} at most"),
                )
                for took, share in zip(seconds, shares[1:], strict=True)
            ]
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(numticks=4 if width <= NARROW else 8))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_seconds(value)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(min(float(one.row["seconds"]) for one in compared) / 2, longest)
        axes.set_ylim(0, 102)
        axes.set_xlabel("time of a solve, logarithmic")
        axes.set_ylabel("problems, %")
        _legend(axes, width)
        return to_svg(figure, name, "Time of one solve", f"Of {', '.join(solvers)}.", spots)
