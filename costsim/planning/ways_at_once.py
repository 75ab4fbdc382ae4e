"""Several ways of adapting asked of a solver as one choice: one question instead of tens."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from costsim.planning.ways_of_adapting import Way
from costsim.pricing.table import Charge
from costsim.problem.budget import Budget
from costsim.problem.problem import Problem


def by_first_opened(problem: Problem, ways: Sequence[Way]) -> Problem:
    """The choice by any of these ways at once, of which those that train most come first.

    Where the network can be cut is decided by the layer that is opened first, so that what an
    earlier cut leaves less of a budget is a charge for opening a layer that comes before the later
    one. Of each budget the way counts that leaves most of it: where that is one way for all of
    them, this is the choice, and else it is no less.
    """
    most: dict[frozenset[str], Budget] = {}
    leaving = ways[0].budget
    for way in ways:
        leaving = most[way.layers] = _most_of_each(leaving, way.budget)
    charges = [
        Charge(
            frozenset(atom for atom in problem.table.atoms if atom[1] in ways[0].layers - fewer),
            (more.latency_s or 0.0) - (less.latency_s or 0.0),
            (more.macs or 0) - (less.macs or 0),
        )
        for (_, less), (fewer, more) in pairwise(most.items())
    ]
    return problem.charged(charges).within(leaving)


def _most_of_each(one: Budget, other: Budget) -> Budget:
    """The budgets of a step of which one leaves most; either limits the same things."""
    latency_s, macs = other.latency_s, other.macs
    if one.latency_s is not None and latency_s is not None:
        latency_s = max(one.latency_s, latency_s)
    if one.macs is not None and macs is not None:
        macs = max(one.macs, macs)
    return replace(other, latency_s=latency_s, macs=macs)
