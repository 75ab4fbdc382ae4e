"""Positions of a table that no plan needs looked at."""

from collections.abc import Iterator
from itertools import groupby

import numpy as np

from costsim.pricing.derivation.spans import LiveBytes
from costsim.pricing.table import Floats, Integers

FEW = 32
"""Rows in which a column is compared before all of them: most of what it is compared with is out by
then.
"""


def possible_peaks(live: LiveBytes) -> Integers:
    """The positions at which a plan can have its peak: no other one has all that is live there.

    Of equal ones the first. What a neighbour covers is left out before any row is written, which
    leaves about half.
    """
    summits = live.summits()
    left: Integers = summits[undominated_columns(live.varying_rows(summits))]
    return left


def undominated_columns(rows: Floats) -> Integers:
    """Columns of `rows` [R, C] that no other one reaches in every row; of equal ones the first.

    What covers a column has no smaller sum, so that in the order of their sums each is compared
    with those before it that are left, and only in the rows in which it is above the least of all:
    in a table those are the few buffers that are live at a position. The rows in which fewest of
    those left are above the least come first.
    """
    least = rows.min(axis=1, initial=np.inf)
    kept, count = np.empty(rows.shape[1], dtype=np.int64), 0
    above_in = np.zeros(len(rows), dtype=np.int64)
    for index in _greatest_first(rows):
        column = rows[:, index]
        above = np.flatnonzero(column > least)
        if count and _covered(column, above, rows, kept[:count], above_in):
            continue
        kept[count] = index
        count += 1
        above_in[above] += 1
    left: Integers = np.sort(kept[:count])
    return left


def _greatest_first(rows: Floats) -> Iterator[int]:
    """Columns of `rows` [R, C] in an order in which none comes before one that covers it.

    By their sums; where rounding makes those equal in lexicographic order. Equal ones stay in
    order.
    """
    sums = rows.sum(axis=0)
    for _, group in groupby(np.argsort(-sums, kind="stable").tolist(), key=sums.__getitem__):
        equal = list(group)
        if len(equal) > 1:
            equal.sort(key=lambda index: tuple(rows[:, index].tolist()), reverse=True)
        yield from equal


def _covered(
    column: Floats, above: Integers, rows: Floats, kept: Integers, above_in: Integers
) -> bool:
    """Whether one of the columns `kept` of `rows` reaches `column` in the rows `above`, so in all.

    `above_in` [R] says how many of them are above the least in each row.
    """
    rare = above[np.argsort(above_in[above])]
    able = kept
    for some in (rare[:1], rare[1:FEW], rare[FEW:]):
        able = able[(rows[np.ix_(some, able)] >= column[some, None]).all(axis=0)]
    return bool(len(able))
