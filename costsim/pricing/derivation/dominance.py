"""Positions of a table that no plan needs looked at."""

from dataclasses import replace

import numpy as np

from costsim.pricing.table import CostTable, Linear


def without_dominated_positions(table: CostTable) -> CostTable:
    """Drop the positions at which no plan can have more bytes live than at another."""
    rows = np.vstack(
        [
            table.memory.constant,
            table.memory.clauses,
            table.memory.channels,
            *(both.bytes_at for both in table.conjunctions),
            *(span for keep in table.shared_keeps for _, span in keep.segments),
        ]
    )
    _, first = np.unique(rows, axis=1, return_index=True)
    candidates = np.sort(first)
    columns = rows[:, candidates]
    keep = np.ones(len(candidates), dtype=bool)
    for i in range(len(candidates)):
        covered = (columns >= columns[:, i : i + 1]).all(axis=0) & keep
        keep[i] = covered.sum() == 1
    left = candidates[keep]
    memory = Linear(
        table.memory.constant[left], table.memory.clauses[:, left], table.memory.channels[:, left]
    )
    return replace(
        table,
        memory=memory,
        conjunctions=tuple(replace(b, bytes_at=b.bytes_at[left]) for b in table.conjunctions),
        shared_keeps=tuple(
            replace(k, segments=tuple((clause, span[left]) for clause, span in k.segments))
            for k in table.shared_keeps
        ),
    )
