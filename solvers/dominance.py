"""States that another state dominates: it costs no more, and has gained no less."""

import numpy as np

from costsim.table import Floats, Integers


def undominated(costs: Floats, loss: Floats, price: Floats) -> Integers:
    """Indices of states [S] without (some of) those that another one dominates.

    A state dominates another if it costs no more in any row and has gained no less; what has been
    gained is `m costs - loss` but for a constant.
    """
    gain = costs @ price - loss
    if costs.shape[1] == 1:
        order = np.lexsort((-gain, costs[:, 0]))
        reached = np.maximum.accumulate(gain[order])
        better = np.ones(len(order), dtype=bool)
        better[1:] = gain[order][1:] > reached[:-1]
        front: Integers = order[better]
        return front
    order = np.lexsort((-gain, *costs.T))
    same = np.zeros(len(order), dtype=bool)
    same[1:] = (costs[order][1:] == costs[order][:-1]).all(axis=1)
    left: Integers = order[~same]
    return left
