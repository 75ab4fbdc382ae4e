"""Small random problems: graphs, scores and budgets equal to the cost of a drawn plan."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from graphs import chain, graphs, steps
from hypothesis import assume
from hypothesis import strategies as st

from costsim.ir.graph import LayerGraph
from costsim.ir.operators import UpdateKind
from costsim.ir.step import TrainingStep
from costsim.pricing.accounting import ACCOUNTINGS
from costsim.pricing.table import Floats
from costsim.problem.budget import Budget
from costsim.problem.importance import ChannelScores, Importance
from costsim.problem.problem import Problem

Draw: TypeAlias = Callable[[st.SearchStrategy[Any]], Any]

AXES: tuple[tuple[UpdateKind, ...], ...] = (
    ("output",),
    ("output", "input"),
    ("output", "bias"),
    ("output", "input", "bias"),
    ("bias",),
)

LIMITS = ("memory_bytes", "macs", "latency_s", "energy_j", "working_bytes")


class RooflineTimer:
    """A device with an overhead, a rate for each direction and a bandwidth."""

    def operation_seconds(
        self,
        work_kind: str,
        direction: str,
        macs: Floats,
        moved_bytes: Floats,
        *,
        kernel: str | None = None,
    ) -> Floats:
        """The overhead and the longer of computing and moving."""
        rate = {"forward": 3.0, "input_gradient": 2.0}.get(direction, 1.0)
        return 11.0 + np.maximum(np.asarray(macs) / rate, np.asarray(moved_bytes) / 2.0)


def scores_for(
    graph: LayerGraph, draw: Draw, axes: Iterable[UpdateKind], layers: Iterable[str]
) -> Importance:
    """Scores with ties and zeros for some layers along some axes."""
    found = []
    for layer in layers:
        for axis in axes:
            count = graph.selectable(layer, axis)
            if count:
                values = st.lists(st.integers(0, 9), min_size=count, max_size=count)
                found.append(ChannelScores(layer, axis, tuple(float(v) for v in draw(values))))
    return Importance("drawn", tuple(found))


@st.composite
def problems(
    draw: st.DrawFn, *, max_layers: int = 4, simple: bool = False, max_calls: int = 6
) -> Problem:
    """A problem whose limits are the cost of a drawn selection, sometimes one less."""
    graph = draw(graphs(max_calls=max_calls, simple=simple))
    step = draw(steps(graph))
    axes = draw(st.sampled_from(AXES))
    names = [name for name in graph.layers if any(graph.selectable(name, axis) for axis in axes)][
        -max_layers:
    ]
    assume(names)
    importance = scores_for(graph, draw, axes, names)
    with_bias = "bias" not in axes and draw(st.booleans())
    unlimited = Problem(
        graph,
        step,
        importance,
        Budget(
            memory_bytes=10**9,
            accounting=draw(st.sampled_from([name for name in ACCOUNTINGS if name != "arena"])),
            macs=10**12,
            latency_s=1e12,
            energy_j=1e12,
            working_bytes=10**9,
        ),
        with_bias=with_bias,
        timer=RooflineTimer(),
        compute_w=2.0,
    )
    selection = [draw(st.integers(0, c.size)) for c in unlimited.candidates]
    usage = unlimited.usage(np.array([selection]))
    limits: dict[str, Any] = {}
    for name in LIMITS:
        if draw(st.booleans()):
            slack = draw(st.sampled_from([0, 0, -1, 7]))
            limits[name] = max(0, type(getattr(unlimited.budget, name))(usage[name][0]) + slack)
    budget = Budget(accounting=unlimited.budget.accounting, **limits)
    return Problem(
        graph, step, importance, budget, with_bias=with_bias, timer=RooflineTimer(), compute_w=2.0
    )


def rescored(problem: Problem, score: Callable[[int, int, float], float]) -> Problem:
    """The problem with `score(entry, channel, old score)` instead of its scores."""
    entries = tuple(
        ChannelScores(
            entry.layer,
            entry.axis,
            tuple(score(i, c, value) for c, value in enumerate(entry.scores)),
        )
        for i, entry in enumerate(problem.importance.channels)
    )
    return Problem(
        problem.graph,
        problem.step,
        Importance("drawn", entries),
        problem.budget,
        with_bias=problem.with_bias,
        timer=RooflineTimer(),
        compute_w=2.0,
    )


def chain_problem(
    budget: Budget,
    *,
    scores: Sequence[float] | None = None,
    channels: tuple[int, ...] = (8, 12, 10, 9),
) -> Problem:
    """A chain of convolutions with one score a channel, falling."""
    graph = chain(channels=channels)
    entries = []
    for i, layer in enumerate(graph.layers):
        count = graph.selectable_channels(layer, "output")
        values = scores or [1.0 / (1 + i + c) for c in range(count)]
        entries.append(ChannelScores(layer, "output", tuple(values[:count])))
    return Problem(
        graph,
        TrainingStep(),
        Importance("drawn", tuple(entries)),
        budget,
        timer=RooflineTimer(),
        compute_w=2.0,
    )
