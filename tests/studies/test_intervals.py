"""The one interval: what it is, how often it covers, and that few tasks claim nothing."""

import math
from statistics import fmean, stdev

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student

from costsim.base.intervals import FEWEST_TASKS, Mean

SHARES = st.floats(0, 1)


@given(st.lists(SHARES, min_size=FEWEST_TASKS, max_size=30))
def test_it_is_students_t_of_one_value_a_task(values: list[float]) -> None:
    mean = Mean.of(values)
    assert mean is not None
    half = student.ppf(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    assert mean.value == pytest.approx(fmean(values))
    assert mean.half == pytest.approx(half)
    assert (mean.low, mean.high) == pytest.approx((mean.value - half, mean.value + half))


@given(st.lists(SHARES, min_size=1, max_size=FEWEST_TASKS - 1))
def test_few_tasks_claim_nothing(values: list[float]) -> None:
    mean = Mean.of(values)
    assert mean is not None
    assert (mean.half, mean.low, mean.high) == (None, None, None)
    assert "no interval" in mean.told
    assert mean.to_json() == {"mean": fmean(values), "interval": None, "tasks": len(values)}


@given(
    st.lists(st.tuples(st.integers(0, 8), SHARES), min_size=1, max_size=40),
    st.randoms(use_true_random=False),
)
def test_a_task_counts_once_in_any_order(pairs: list[tuple[int, float]], random) -> None:
    tasks, values = [task for task, _ in pairs], [value for _, value in pairs]
    found = Mean.by_task(values, tasks)
    assert found is not None
    means = [fmean(v for t, v in pairs if t == task) for task in dict.fromkeys(tasks)]
    expected = Mean.of(means)
    assert expected is not None
    assert found == expected
    again = list(pairs)
    random.shuffle(again)
    other = Mean.by_task([value for _, value in again], [task for task, _ in again])
    assert other is not None
    assert other.value == pytest.approx(found.value)
    assert (other.half is None) == (found.half is None)
    assert other.half == pytest.approx(found.half)


def test_it_covers_the_mean_of_clustered_values_as_often_as_it_says() -> None:
    """Tasks that differ, and problems of one task that do not: as if there were only the tasks."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        tasks = rng.normal(0.3, 0.1, 6)
        values = (tasks[:, None] + rng.normal(0, 0.001, (6, 5))).ravel()
        mean = Mean.by_task(values.tolist(), np.repeat(np.arange(6), 5).tolist())
        assert mean is not None
        assert mean.low is not None
        assert mean.high is not None
        covered += mean.low <= 0.3 <= mean.high
    assert 0.92 <= covered / 400 <= 0.98  # 0.64 if each of 30 values were a task


def test_domains_count_the_same_and_one_that_is_missing_is_not_made_up() -> None:
    first, second = Mean.of([0.1, 0.2, 0.3, 0.4, 0.5]), Mean.of([0.9] * 7 + [0.6])
    assert first is not None
    assert second is not None
    both = Mean.over([first, second])
    assert both is not None
    assert both.value == pytest.approx((first.value + second.value) / 2)
    assert both.half == pytest.approx(math.hypot(first.half or 0, second.half or 0) / 2)
    assert both.count == 13
    assert Mean.over([first, None]) is None
    assert Mean.over([]) is None
    assert Mean.of([]) is None
    few = Mean.over([first, Mean.of([0.5])])
    assert few is not None
    assert few.half is None


def test_it_is_told_with_what_it_is_over() -> None:
    assert Mean(0.156, 0.012, 20).told == "15.6 % ± 1.20 %"
    assert Mean(0.156, None, 2).told == "15.6 % (2 tasks: no interval)"
    assert Mean(0.156, None, 1).told == "15.6 % (1 task: no interval)"
