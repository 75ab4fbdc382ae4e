"""States that another state dominates: it costs no more in any row, and has gained no less."""

import numpy as np

from costsim.pricing.table import Floats, Integers

BANDS = 16
"""Into how many bands of one cost states are put, to compare them in the other."""


def undominated(costs: Floats, gain: Floats) -> Integers:
    """Indices of states with `costs` [S, R] and `gain` [S], without (some of) the dominated ones.

    With one row all of those are found; with two most of them; with more only those that cost
    the same as another one.
    """
    rows = costs.shape[1]
    if rows == 0:
        return np.array([int(np.argmax(gain))])
    if rows == 1:
        order = np.lexsort((-gain, costs[:, 0]))
        front: Integers = order[_rises(gain[order])]
        return front
    order = np.lexsort((-gain, *costs.T[::-1]))
    same = np.zeros(len(order), dtype=bool)
    same[1:] = (costs[order][1:] == costs[order][:-1]).all(axis=1)
    left: Integers = order[~same]
    if rows == 2 and len(left) > BANDS:
        left = _banded(costs[left, 1], gain[left], left)
    return left


def _rises(gain: Floats) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
    """Whether each gain is greater than all before it."""
    better = np.ones(len(gain), dtype=bool)
    better[1:] = gain[1:] > np.maximum.accumulate(gain)[:-1]
    return better


def _banded(second: Floats, gain: Floats, states: Integers) -> Integers:
    """Of `states` in the order of their first cost those that none of a lower band dominates."""
    edges = np.quantile(second, np.linspace(0.0, 1.0, BANDS + 1)[1:-1])
    band = np.searchsorted(edges, second, side="left")
    keep = np.ones(len(gain), dtype=bool)
    lowest = np.full(len(gain), -np.inf)
    for b in range(BANDS):
        here = band == b
        # The states of this band against those before them in lower bands.
        reached = np.maximum.accumulate(lowest)
        keep[here] = gain[here] > reached[here]
        lowest[here] = gain[here]
    kept: Integers = states[keep]
    return kept
