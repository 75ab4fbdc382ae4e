"""What a study of methods says in a sentence, and what all of its cells have in common."""

from collections.abc import Sequence
from dataclasses import fields

from costsim.base.intervals import Mean
from costsim.base.units import (
    counted,
    format_bytes,
    format_percent,
)
from costsim.report.budgets import BUDGETS
from costsim.report.study_table import MEMORY, groups, memory_heading, percent
from costsim.studies.methods.analysis import AVERAGE, Line, MethodFindings
from costsim.studies.methods.cells import MethodCell

_COMPUTED_BY = {"torch": "PyTorch", "native": "kernels compiled for the machine (native)"}


def settings_rows(cells: Sequence[MethodCell]) -> list[tuple[str, str]]:
    """What all cells have in common: seeds, budget, recipe; nothing without cells."""
    if not cells:
        return []
    recipe, budget = cells[0].recipe, cells[0].budget
    seeds = sorted({cell.seed for cell in cells})
    run = len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1))
    limits = {one.name: getattr(budget, one.name) for one in fields(budget)}
    given = [_limit(name, value) for name, value in limits.items() if value is not None]
    usual = type(recipe)()
    parts = [counted(recipe.iterations, "iteration"), recipe.optimizer]
    parts += [
        f"{one.name.replace('_', ' ')} {getattr(recipe, one.name)}"
        for one in fields(recipe)
        if one.name not in ("iterations", "optimizer", "seed")
        and getattr(recipe, one.name) != getattr(usual, one.name)
    ]
    return [
        ("Seeds", f"{seeds[0]} to {seeds[-1]}" if run else ", ".join(map(str, seeds))),
        ("Budget", ", ".join(given) or "as each device recommends"),
        ("Recipe", f"{', '.join(parts)}; else as usual"),
        ("Computed by", _COMPUTED_BY[cells[0].backend]),
    ]


def _limit(name: str, value: float | str) -> str:
    """A limit of a step, as a person reads it."""
    if name == "macs_share":
        return f"{format_percent(float(value))} of the backward MACs"
    if name in BUDGETS:
        words, write = BUDGETS[name]
        return f"{words} {write(float(value))}"
    return f"in the {value} accounting"


def conclusion(findings: MethodFindings, accounting: str = "peak") -> str:
    """What the study says, in a sentence or two for each model and device; of tasks, never more.

    The method with the highest mean accuracy within the budget, what it brings over the reference,
    and whether that is sure.
    """
    told = []
    several = len({(line.model, line.device) for line in findings.lines}) > 1
    for title, lines in groups(findings):
        where = f" for {title}" if several else ""
        told.append(_best(findings, lines, where, accounting))
    return " ".join(told) or "No cell of the study is finished."


def _best(findings: MethodFindings, lines: Sequence[Line], where: str, accounting: str) -> str:
    known = [line for line in lines if line.accuracy[AVERAGE] is not None and not line.outside]
    if not known:
        return f"No method is within the budget{where}{_best_outside(lines)}."
    best = max(known, key=lambda line: (line.accuracy[AVERAGE] or Mean(0, None, 0)).value)
    accuracy, over = best.accuracy[AVERAGE], best.over_reference[AVERAGE]
    tasks = counted(best.tasks, "task")
    if best.method == findings.reference:
        few = accuracy is not None and accuracy.half is None
        sure = "; too few tasks to call any method better or worse" if few else ""
        told = f"No method within the budget brings more than {best.method}{where}: "
        return f"{told}{percent(accuracy)} % over {tasks}{sure}."
    told = f"{best.method} has the highest mean accuracy within the budget{where}: "
    told += f"{percent(accuracy)} % over {tasks}"
    memory = best.costs[MEMORY[accounting]]
    if memory and best.costs["backward_macs"]:
        told += f", with {format_bytes(memory)} of {memory_heading(accounting)}"
    if over is None:
        return f"{told}."
    points = f"{percent(over, signed=True)} points over {findings.reference}"
    if over.low is None:
        return f"{told}, {points}; too few tasks to call it better."
    sure = "surely more" if over.low > 0 else "not surely more"
    return f"{told}, {points}, {sure}."


def _best_outside(lines: Sequence[Line]) -> str:
    """The highest mean accuracy where no method keeps to the budget."""
    known = [(mean.value, line) for line in lines if (mean := line.accuracy[AVERAGE])]
    if not known:
        return ""
    _, best = max(known, key=lambda one: one[0])
    tasks = counted(best.tasks, "task")
    return f"; outside it {best.method} reaches {percent(best.accuracy[AVERAGE])} % over {tasks}"
