"""The cost table of a model under a training step, put together."""

from collections.abc import Mapping, Sequence

import numpy as np

from costsim.ir.graph import LayerGraph
from costsim.ir.program import Atom, Category, Schedule, build_schedule
from costsim.ir.step import TrainingStep
from costsim.pricing.derivation.coefficients import Clauses, Coefficients
from costsim.pricing.derivation.dominance import possible_peaks
from costsim.pricing.derivation.macs import mac_rows
from costsim.pricing.derivation.memory import MemoryRows
from costsim.pricing.derivation.schedule_index import Scheduled
from costsim.pricing.derivation.seconds import Seconds
from costsim.pricing.table import CostTable, Floats, Linear, OperationTimer


def build_table(
    graph: LayerGraph,
    step: TrainingStep,
    *,
    timer: OperationTimer | None = None,
    orders: Mapping[Atom, Sequence[int]] | None = None,
    schedule: Schedule | None = None,
    every_position: bool = False,
) -> CostTable:
    """Derive the cost table of `graph` under `step`.

    `orders` names, for some atoms, the order in which channels are taken (ascending otherwise).
    Without a `timer` the table has no seconds. `every_position`: one for each step of the schedule,
    also those at which no plan can have its peak.
    """
    of = Scheduled(schedule or build_schedule(graph, step), step)
    clauses = Clauses()
    rows = MemoryRows(of, clauses)
    recompute, input_gradient, weight_gradient, forward_macs = mac_rows(of, clauses)
    timed = Seconds(of, timer)
    seconds: Coefficients | None = None
    count_seconds: tuple[Floats, ...] = ()
    updates, count_updates = Coefficients(clauses), tuple[Floats, ...]()
    if timer is not None:
        seconds, count_seconds = timed.rows(clauses, [keep.value for keep in rows.shared])
        updates, count_updates = timed.of_updates(clauses)
    membership = np.zeros((len(clauses.numbers), len(of.atoms)), dtype=bool)
    for guard, row in clauses.numbers.items():
        membership[row, list(map(of.index.__getitem__, guard))] = True
    at = np.arange(of.positions) if every_position else possible_peaks(rows.live)

    def linear(found: Coefficients) -> Linear:
        return found.linear(of.index)

    given = orders or {}
    return CostTable(
        atoms=of.atoms,
        sizes=of.sizes,
        orders=tuple(
            tuple(given.get(atom, range(size)))
            for atom, size in zip(of.atoms, of.sizes, strict=True)
        ),
        clauses=tuple(clauses.numbers),
        membership=membership,
        memory=rows.memory(at),
        conjunctions=rows.conjunctions(at),
        shared_keeps=rows.shared_keeps(at),
        kept=linear(rows.kept),
        gradients=linear(rows.of_category(Category.WEIGHT_GRADIENT)),
        optimizer=linear(rows.of_category(Category.OPTIMIZER)),
        updated_weights=linear(rows.of_category(Category.UPDATED_WEIGHTS)),
        recompute=linear(recompute),
        input_gradient=linear(input_gradient),
        weight_gradient=linear(weight_gradient),
        forward_macs=forward_macs,
        seconds=None if seconds is None else linear(seconds),
        count_seconds=count_seconds,
        keep_seconds=timed.of_keeps(),
        update_seconds=linear(updates),
        count_update_seconds=count_updates,
    )
