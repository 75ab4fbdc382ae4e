"""How much longer each part of steps takes than believed, as far as measurements can tell.

The rows are measured steps, each with the seconds t_p that its parts were predicted to take and
the ratio of what it took to what it was predicted to take as a whole. One factor F for everything
is found first (`shift`). Factors F g_p of parts then come from non-negative least squares with
the old rates as a prior,

    minimise  sum_j ((sum_p g_p F t_jp - y_j) / y'_j)^2  +  k sum_p (g_p - 1)^2,    g_p >= 0

where y'_j is what the fit itself gives (dividing by what was measured would pull all factors down)
and k, the weight of the prior, is chosen by leaving rows out: whole networks where there are three
or more, single plans otherwise. Where no k beats the one factor on rows left out, by more than the
standard error of the comparison and by a tenth, the one factor stands, and so it does where it is
good enough: collinear parts, or too few plans, cannot be told apart, and a fit of noise would make
new plans worse.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.stats import t as student

from costsim.device.calibration import QUANTILE

Floats = NDArray[np.float64]

LEAST_SCATTER = 0.03
"""Relative: no two plans are mispredicted by the same factor more nearly than this."""
FEWEST_FOLDS = 4
BELIEVED = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""Standard deviations of a part's factor about the whole's that are tried, at `LEAST_SCATTER`."""
BETTER = 0.9
"""The share that the error on rows left out must fall below for parts to be told apart."""
SLOWEST = 0.05
"""No part is taken to be more than so many times faster than the whole."""
ROUNDS = 4


@dataclass(frozen=True)
class Row:
    """One plan as measured: its predicted seconds by part, what it really took, its network."""

    parts: Mapping[str, float]
    measured_s: float
    predicted_s: float
    network: str

    @property
    def error(self) -> float:
        """The logarithm of measured over predicted."""
        return math.log(self.measured_s / self.predicted_s)


@dataclass(frozen=True)
class Factors:
    """Durations are `whole` times what was believed, those of parts `apart` times that again.

    `known` is the relative standard deviation of each factor in `apart`, `deviation` that of a new
    step, `left_out` the errors (root mean square, of logarithms) on rows left out: with one factor
    and with these; None where there were too few rows to leave any out.
    """

    whole: float
    deviation: float
    apart: Mapping[str, float] = field(default_factory=dict)
    known: Mapping[str, float] = field(default_factory=dict)
    left_out: tuple[float, float] | None = None


def shift(errors: Sequence[float], believed: float) -> tuple[float, float]:
    """The logarithm of one factor for everything, and its relative standard deviation for a step.

    With delta the true offset, believed beforehand to lie around 0 with the standard deviation c
    that the spec's own interval implies, and each error y_i = delta + e_i, e_i of standard
    deviation s,

        delta | y  ~  N( c^2 sum y_i / (s^2 + n c^2),  c^2 s^2 / (s^2 + n c^2) )

    so one measurement moves a spec that was little trusted by nearly all of the difference, and a
    calibrated one by little. s is taken from the measurements where there are some.
    """
    scatter = max(LEAST_SCATTER, statistics.stdev(errors) if len(errors) > 1 else believed / 2)
    n, prior, noise = len(errors), max(believed, LEAST_SCATTER) ** 2, scatter**2
    moved = prior * sum(errors) / (noise + n * prior)
    # What is left: how well the offset is known, and how far single plans scatter about it.
    return moved, math.sqrt(prior * noise / (noise + n * prior) + noise)


def tell_apart(rows: Sequence[Row], believed: float, *, whole_only: bool = False) -> Factors:
    """The factors that `rows` make likely; `believed` is the deviation that the spec claims.

    `whole_only`: one for everything, whatever could be told apart.
    """
    errors = [row.error for row in rows]
    moved, deviation = shift(errors, believed)
    names = sorted({part for row in rows for part in row.parts})
    folds = _folds(rows)
    if len(folds) < FEWEST_FOLDS or not names or not all(row.parts for row in rows):
        return Factors(math.exp(moved), deviation)
    seconds = np.array([[row.parts.get(name, 0.0) for name in names] for row in rows])
    one, parted = _leave_out(rows, folds, seconds, believed)
    squares = parted**2
    best = int(np.argmin(squares.mean(axis=1)))
    left_out = (_root(one), _root(parted[best]))
    gained = one**2 - squares[best]
    sure = gained.mean() > gained.std(ddof=1) / math.sqrt(len(gained))
    worth = left_out[0] > LEAST_SCATTER and left_out[1] < BETTER * left_out[0]
    if whole_only or not (sure and worth):
        return Factors(math.exp(moved), deviation, left_out=(left_out[0], left_out[0]))
    whole = math.exp(moved)
    measured = np.array([row.measured_s for row in rows])
    ridge = (LEAST_SCATTER / BELIEVED[best]) ** 2
    factors, known = _fit(whole * seconds, measured, ridge, max(LEAST_SCATTER, left_out[1]))
    widening = float(student.ppf(0.95, len(rows) - 1)) / QUANTILE
    return Factors(
        whole,
        max(LEAST_SCATTER, widening * left_out[1]),
        dict(zip(names, map(float, factors), strict=True)),
        dict(zip(names, map(float, known), strict=True)),
        left_out,
    )


def _folds(rows: Sequence[Row]) -> list[list[int]]:
    """Rows to leave out together: all plans of a network, where there are networks enough."""
    networks = [row.network for row in rows]
    if len(set(networks)) < max(3, FEWEST_FOLDS):
        return [[index] for index in range(len(rows))]
    return [[i for i, one in enumerate(networks) if one == name] for name in sorted(set(networks))]


def _leave_out(
    rows: Sequence[Row], folds: Sequence[Sequence[int]], seconds: Floats, believed: float
) -> tuple[Floats, Floats]:
    """Errors of rows left out: with one factor [row], and with parts [weight of prior, row]."""
    errors = np.array([row.error for row in rows])
    measured = np.array([row.measured_s for row in rows])
    one, parted = np.zeros(len(rows)), np.zeros((len(BELIEVED), len(rows)))
    for fold in folds:
        kept = [index for index in range(len(rows)) if index not in fold]
        moved, _ = shift(errors[kept].tolist(), believed)
        scaled = math.exp(moved) * seconds
        one[fold] = errors[fold] - moved
        for number, deviation in enumerate(BELIEVED):
            ridge = (LEAST_SCATTER / deviation) ** 2
            factors, _ = _fit(scaled[kept], measured[kept], ridge, LEAST_SCATTER)
            parted[number, fold] = np.log(measured[fold] / (scaled[fold] @ factors))
    return one, parted


def _fit(seconds: Floats, measured: Floats, ridge: float, scatter: float) -> tuple[Floats, Floats]:
    """Factors of parts [part], and their relative standard deviations; `ridge` is k above."""
    count = seconds.shape[1]
    pull = math.sqrt(ridge) * np.eye(count)
    given = seconds.sum(axis=1)
    for _ in range(ROUNDS):
        shares = seconds / given[:, None]
        # g = SLOWEST + h, h >= 0: a part takes some time.
        wanted = measured / given - SLOWEST * shares.sum(axis=1)
        beyond, _ = nnls(
            np.vstack((shares, pull)),
            np.concatenate((wanted, math.sqrt(ridge) * np.full(count, 1 - SLOWEST))),
        )
        factors: Floats = SLOWEST + beyond
        given = seconds @ factors
    information = (shares.T @ shares + ridge * np.eye(count)) / scatter**2
    deviations: Floats = np.sqrt(np.diag(np.linalg.inv(information))) / factors
    return factors, deviations


def _root(errors: Floats) -> float:
    return math.sqrt(float(np.mean(errors**2)))
