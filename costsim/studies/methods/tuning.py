"""Learning rates chosen without an eye on the outcome: each domain takes the others' best one.

A method that ran at several learning rates is reported at one. Were it the best on the domain
itself, more rates would mean better figures; so every domain takes the rate whose mean accuracy
over the other domains is highest, each domain counting the same (leave one domain out).
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

Row = Mapping[str, Any]


def tuned(rows: Sequence[Row]) -> tuple[tuple[Row, ...], dict[str, float]]:
    """Of the rows of one method those at the chosen rates, and the rate of each domain.

    Rates are compared on the tasks that ran at all of them; of equally good ones the smallest is
    taken, as where there is no other domain to choose on. Rows without an accuracy (refused or
    failed) or a rate stay. Where there is one rate nothing is chosen, and none is told.
    """
    done = [row for row in rows if row["status"] == "done" and row["learning_rate"] is not None]
    rates = sorted({float(row["learning_rate"]) for row in done})
    if len(rates) < 2:
        return tuple(rows), {}
    domains = list(dict.fromkeys(str(row["domain"]) for row in done))
    accuracy: dict[tuple[float, str], dict[str, float]] = {}
    for row in done:
        tasks = accuracy.setdefault((float(row["learning_rate"]), str(row["domain"])), {})
        tasks[str(row["task"])] = float(row["accuracy"])
    chosen = {
        domain: _best(rates, [other for other in domains if other != domain], accuracy)
        for domain in domains
    }
    left = tuple(
        row
        for row in rows
        if row["status"] != "done" or row["learning_rate"] in (None, chosen[str(row["domain"])])
    )
    return left, chosen


def _best(
    rates: Sequence[float],
    domains: Sequence[str],
    accuracy: Mapping[tuple[float, str], Mapping[str, float]],
) -> float:
    """The rate with the highest mean over `domains`, on the tasks that all rates have."""
    shared = {
        domain: set.intersection(*(set(accuracy.get((rate, domain), ())) for rate in rates))
        for domain in domains
    }
    known = [domain for domain in domains if shared[domain]]
    if not known:
        return rates[0]

    def mean(rate: float) -> float:
        return fmean(
            fmean(accuracy[rate, domain][task] for task in sorted(shared[domain]))
            for domain in known
        )

    return max(rates, key=lambda rate: (mean(rate), -rate))
