"""Positions of a table that no plan needs looked at."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby

import numpy as np

from costsim.pricing.table import CostTable, Floats, Integers, Linear

FEW = 32
"""Rows in which a column is compared before all of them: most of what it is compared with is out by
then.
"""


def without_dominated_positions(table: CostTable) -> CostTable:
    """Drop the positions at which no plan can have more bytes live than at another."""
    left = undominated_columns(
        np.vstack(
            [
                table.memory.constant,
                table.memory.clauses,
                table.memory.channels,
                *(both.bytes_at for both in table.conjunctions),
                *(span for keep in table.shared_keeps for _, span in keep.segments),
            ]
        )
    )
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


def undominated_columns(rows: Floats) -> Integers:
    """Columns of `rows` [R, C] that no other one reaches in every row; of equal ones the first.

    What covers a column has no smaller sum, so that in the order of their sums each is compared
    with those before it that are left, and only in the rows in which it is above the least of all:
    in a table those are the few buffers that are live at a position. The rows in which fewest of
    those left are above the least come first.
    """
    least = rows.min(axis=1, initial=np.inf)
    columns = np.ascontiguousarray(rows.T)
    tops, kept = np.empty_like(columns), list[int]()
    above_in = np.zeros(len(rows), dtype=np.int64)
    for index in _greatest_first(columns, rows.sum(axis=0)):
        above = np.flatnonzero(columns[index] > least)
        if kept and _covered(columns[index], above, tops[: len(kept)], above_in):
            continue
        tops[len(kept)] = columns[index]
        kept.append(index)
        above_in[above] += 1
    left: Integers = np.sort(np.array(kept, dtype=np.int64))
    return left


def _greatest_first(columns: Floats, sums: Floats) -> Iterator[int]:
    """Columns [C, R] in an order in which none comes before one that covers it.

    By their sums; where rounding makes those equal in lexicographic order. Equal ones stay in
    order.
    """
    for _, group in groupby(np.argsort(-sums, kind="stable").tolist(), key=sums.__getitem__):
        equal = list(group)
        if len(equal) > 1:
            equal.sort(key=lambda index: tuple(columns[index].tolist()), reverse=True)
        yield from equal


def _covered(column: Floats, above: Integers, tops: Floats, above_in: Integers) -> bool:
    """Whether one of `tops` [T, R] reaches `column` [R] in the rows `above`, so in all.

    `above_in` [R] says how many of them are above the least in each row.
    """
    rare = above[np.argsort(above_in[above])]
    able = np.arange(len(tops))
    for some in (rare[:1], rare[1:FEW], rare[FEW:]):
        able = able[(tops[np.ix_(able, some)] >= column[some]).all(axis=1)]
    return bool(len(able))
