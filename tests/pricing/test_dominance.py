"""Positions and rows that another one implies: those that comparing all with all leaves out."""

import numpy as np
from graphs import graphs, steps
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from costsim.pricing.derivation import build_table
from costsim.pricing.derivation.dominance import undominated_columns


def by_comparing_all(rows):
    """Columns that no other one reaches everywhere, of equal ones the first: the definition."""
    columns = list(rows.T)
    return [
        i
        for i, column in enumerate(columns)
        if not any(
            (other >= column).all() and ((other > column).any() or j < i)
            for j, other in enumerate(columns)
            if j != i
        )
    ]


WHOLE = st.integers(-3, 3).map(float)
ROUNDED = st.sampled_from([0.0, 1.0, 1.0 + 2.0**-52, 2.0**53, -(2.0**53), 1e-300, 0.1])
"""Sums of these are equal where the columns are not."""


@settings(max_examples=400)
@given(
    st.data(),
    array_shapes(min_dims=2, max_dims=2, max_side=9),
    st.sampled_from([WHOLE, ROUNDED]),
)
def test_what_is_left_is_what_comparing_all_with_all_leaves(data, shape, numbers):
    rows = data.draw(arrays(np.float64, shape, elements=numbers))
    assert undominated_columns(rows).tolist() == by_comparing_all(rows)


def test_without_rows_all_columns_are_equal():
    assert undominated_columns(np.zeros((0, 3))).tolist() == [0]
    assert undominated_columns(np.zeros((3, 0))).tolist() == []


@settings(max_examples=40)
@given(st.data())
def test_a_table_keeps_the_positions_that_no_other_one_covers(data):
    graph = data.draw(graphs(rich=True))
    step = data.draw(steps(graph))
    whole, table = (
        build_table(graph, step, every_position=every).memory for every in (True, False)
    )
    rows = np.vstack([whole.constant, whole.clauses, whole.channels])
    found = np.vstack([table.constant, table.clauses, table.channels])
    columns = {column.tobytes() for column in found.T}
    assert {rows[:, i].tobytes() for i in by_comparing_all(rows)} <= columns
