"""From the rows of a study to a table: method by domain, with intervals over tasks, paired."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from costsim.base.intervals import Mean
from costsim.studies.engine.notes import note_counts
from costsim.studies.methods.tuning import Row, tuned

AVERAGE = "average"
"""What the column of the mean over domains is called."""


@dataclass(frozen=True)
class Line:
    """One method of one model on one device: accuracy by domain, and what it costs.

    `over_reference` is the accuracy less that of the reference on the same tasks. Costs are medians
    over tasks: bytes and MACs in one step, seconds and joules of the whole adaptation; None where
    nothing is trained or nothing fits. `refused` tells why a method has no plan, `tasks` how many
    were answered, `outside` in how many of those each limit of the budget was broken,
    `learning_rates` which one each domain took of several (`costsim.studies.methods.tuning`).
    """

    model: str
    device: str
    method: str
    tasks: int
    failed: int
    refused: str
    accuracy: Mapping[str, Mean | None]
    over_reference: Mapping[str, Mean | None]
    costs: Mapping[str, float | None]
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    outside: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Pooled:
    """One method on all models of a study on one device, each model counting the same.

    `tasks` counts those of all models; the same images seen by two models are two tasks.
    """

    device: str
    method: str
    tasks: int
    accuracy: Mean | None
    over_reference: Mean | None


COSTS = (
    "peak_bytes",
    "arena_bytes",
    "paper_bytes",
    "tiny_training_bytes",
    "autograd_bytes",
    "backward_macs",
    "task_s",
    "task_low_s",
    "task_high_s",
    "task_j",
    "task_low_j",
    "task_high_j",
    "selection_here_s",
    "training_here_s",
)


@dataclass(frozen=True)
class MethodFindings:
    """A study's table. `reference` is the method that others are held against."""

    rows: tuple[Row, ...]
    cells: int
    reference: str
    domains: tuple[str, ...]
    lines: tuple[Line, ...]
    failures: tuple[Row, ...] = field(default=())

    def over_models(self) -> tuple[Pooled, ...]:
        """The methods that ran on each of several models; empty for a study of one."""
        models = {line.model for line in self.lines}
        found: dict[tuple[str, str], list[Line]] = {}
        for line in self.lines:
            found.setdefault((line.device, line.method), []).append(line)
        return tuple(
            Pooled(
                device,
                method,
                sum(line.tasks for line in lines),
                Mean.over([line.accuracy[AVERAGE] for line in lines]),
                Mean.over([line.over_reference[AVERAGE] for line in lines]),
            )
            for (device, method), lines in found.items()
            if len(models) > 1 and len(lines) == len(models)
        )

    @property
    def finished(self) -> int:
        """Cells with an answer."""
        return sum(row["status"] != "failed" for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """As one JSON document, schema `costsim.study/1`."""

        def means(found: Mapping[str, Mean | None]) -> dict[str, Any]:
            return {name: None if mean is None else mean.to_json() for name, mean in found.items()}

        return {
            "schema": "costsim.study/1",
            "cells": self.cells,
            "finished": self.finished,
            "failed": len(self.failures),
            "reference": self.reference,
            "domains": list(self.domains),
            "notes": dict(note_counts(self.rows)),
            "methods": [
                {
                    "model": line.model,
                    "device": line.device,
                    "method": line.method,
                    "tasks": line.tasks,
                    "failed": line.failed,
                    "refused": line.refused or None,
                    "accuracy": means(line.accuracy),
                    "over_reference": means(line.over_reference),
                    "costs": dict(line.costs),
                    "outside_budget": dict(line.outside),
                    "learning_rates": dict(line.learning_rates) or None,
                }
                for line in self.lines
            ],
            "over_models": [
                {
                    "device": pooled.device,
                    "method": pooled.method,
                    "tasks": pooled.tasks,
                    **means({"accuracy": pooled.accuracy, "over_reference": pooled.over_reference}),
                }
                for pooled in self.over_models()
            ],
        }


def analyse(rows: Iterable[Row], cells: int, reference: str | None = None) -> MethodFindings:
    """The table of `rows`, in their order; `cells` is how many the study has in all.

    `reference` is by default the method called None if there is one, else the first. Of a method
    that ran at several learning rates each domain has the rows of one.
    """
    found = tuple(rows)
    methods = list(dict.fromkeys(str(row["method"]) for row in found))
    domains = tuple(dict.fromkeys(str(row["domain"]) for row in found))
    if reference is None:
        reference = "None" if "None" in methods or not methods else methods[0]
    by_method: dict[tuple[str, str, str], list[Row]] = {}
    for row in found:
        by_method.setdefault((row["model"], row["device"], row["method"]), []).append(row)
    groups = {key: tuned(mine) for key, mine in by_method.items()}
    lines = []
    for (model, device, method), (mine, rates) in groups.items():
        done = [row for row in mine if row["status"] == "done"]
        base = {
            (row["domain"], row["task"]): row["accuracy"]
            for row in groups.get((model, device, reference), ((), {}))[0]
            if row["status"] == "done"
        }
        accuracy: dict[str, Mean | None] = {}
        over: dict[str, Mean | None] = {}
        for domain in domains:
            here = [row for row in done if row["domain"] == domain]
            accuracy[domain] = Mean.of([row["accuracy"] for row in here])
            over[domain] = Mean.of(
                [
                    row["accuracy"] - base[domain, row["task"]]
                    for row in here
                    if (domain, row["task"]) in base
                ]
            )
        accuracy[AVERAGE] = Mean.over(list(accuracy.values()))
        over[AVERAGE] = Mean.over(list(over.values()))
        refusals = [str(row["reason"]) for row in mine if row["status"] == "refused"]
        lines.append(
            Line(
                model,
                device,
                method,
                len(done),
                sum(row["status"] == "failed" for row in mine),
                refusals[0] if refusals else "",
                accuracy,
                over,
                {name: _median(row[name] for row in done) for name in COSTS},
                rates,
                Counter(limit for row in done for limit in str(row["exceeds"] or "").split()),
            )
        )
    failures = tuple(row for row in found if row["status"] == "failed")
    return MethodFindings(found, cells, reference, domains, tuple(lines), failures)


def _median(values: Iterable[Any]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return median(known) if known else None
