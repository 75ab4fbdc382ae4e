"""SparseUpdate as its authors published it: one static scheme for each network and memory size.

Lin et al., "On-Device Training Under 256KB Memory", NeurIPS 2022; the schemes are those of
`costsim.pricing.accounting.sparse_update`, found offline, the same for every task.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from costsim.ir.graph import LayerGraph
from costsim.ir.plan import UpdatePlan
from costsim.pricing.accounting.sparse_update import (
    SCHEMES,
    SparseUpdateScheme,
    convolutions_of,
    scheme_plan,
)
from costsim.problem.budget import describe
from costsim.problem.problem import Problem
from costsim.problem.solution import Answer, Status

SHAPES: Mapping[str, str] = {
    "mcunet-5fps": "13a90c852c527c78",
    "mbv2-w0.35": "f33b82dcaf1504e6",
    "proxyless-w0.3": "1b2316e72dfa5f68",
}
"""`fingerprint` of the convolutions of each network that has schemes."""


@dataclass(frozen=True, slots=True)
class SparseUpdate:
    """The largest published scheme of the network that is within the budgets.

    A scheme says how many input channels of which convolutions are updated and which biases; which
    channels follows from `weight_norms`, the norms by layer and input channel of
    `costsim.pricing.accounting.sparse_update.input_channel_norms`: the largest. Where it is None
    the scores of the problem decide instead (the norms themselves, if the criterion is `l2_norm`;
    with any other one the scheme is better informed than the published one is), and the first
    channels of a layer that was not scored.

    The gain of a plan counts scored channels alone: score both axes, and as many layers as a scheme
    reaches back, to compare gains. `reason` says how much of the scheme was not scored.
    """

    name: ClassVar[str] = "sparse-update"

    weight_norms: Mapping[str, Sequence[float]] | None = None

    def __call__(self, problem: Problem) -> Answer:
        schemes = published(problem.graph)
        if not schemes:
            return Answer(
                None,
                Status.INFEASIBLE,
                reason="no scheme was published for this network; there are some for "
                + ", ".join(SHAPES),
            )
        plan = UpdatePlan()
        for scheme in schemes:
            plan = self._plan(problem, scheme)
            if not problem.exceeded(plan):
                return Answer(plan, Status.FEASIBLE, reason=_unscored(problem, plan))
        takes = "; ".join(describe(k, used) for k, (used, _) in problem.exceeded(plan).items())
        return Answer(None, Status.INFEASIBLE, reason=f"the smallest scheme takes {takes}")

    def _plan(self, problem: Problem, scheme: SparseUpdateScheme) -> UpdatePlan:
        if self.weight_norms is not None:
            return scheme_plan(problem.graph, scheme, self.weight_norms)
        first = scheme_plan(problem.graph, scheme)
        scores = {(entry.layer, entry.axis): entry.scores for entry in problem.importance.channels}
        norms: dict[str, Sequence[float]] = {}
        for subset in first.subsets:
            size = problem.graph.selectable_channels(subset.layer, subset.axis)
            norms[subset.layer] = scores.get((subset.layer, subset.axis), (0.0,) * size)
        return scheme_plan(problem.graph, scheme, norms)


def published(graph: LayerGraph) -> list[SparseUpdateScheme]:
    """The schemes of the network that `graph` is, the largest first; none if it has none."""
    found = [
        scheme
        for scheme in SCHEMES
        if fingerprint(graph, scheme.convolutions) == SHAPES[scheme.network]
    ]
    return sorted(found, key=lambda scheme: -scheme.size_kb)


def fingerprint(graph: LayerGraph, convolutions: int) -> str:
    """A digest of the shapes, strides and groups of the first so many convolutions.

    It does not depend on names, weights or the size of images. A network with fewer, or with more
    than one after them (a feature mix, which the schemes leave frozen), has a digest of none.
    """
    found = convolutions_of(graph)
    if not convolutions <= len(found) <= convolutions + 1:
        return ""
    told = []
    for call, operator in found[:convolutions]:
        shape = call.weight.shape if call.weight is not None else ()
        told.append((tuple(shape), tuple(operator.stride), operator.groups))
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]


def _unscored(problem: Problem, plan: UpdatePlan) -> str:
    scored = {(entry.layer, entry.axis) for entry in problem.importance.channels}
    missing = sum((subset.layer, subset.axis) not in scored for subset in plan.subsets)
    if not missing:
        return ""
    return f"{missing} of its {len(plan.subsets)} layers were not scored and count no gain"
