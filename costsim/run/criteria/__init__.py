"""How important each channel is: one criterion a file, all behind one interface.

To add one: a frozen dataclass in a file of its own and an entry in `CRITERIA`. Nothing here
imports torch until a criterion that needs it is asked for scores.
"""

from collections.abc import Mapping

from costsim.run.criteria.base import Criterion, Request
from costsim.run.criteria.first_order import FirstOrder, FirstOrderAdam
from costsim.run.criteria.fisher import Fisher
from costsim.run.criteria.gradient_norm import GradientNorm
from costsim.run.criteria.l2_norm import L2Norm
from costsim.run.criteria.loss import LOSSES, CrossEntropy, Loss, PrototypeLoss, prototype_loss
from costsim.run.criteria.random import Random
from costsim.run.criteria.step_gain import StepGain
from costsim.run.criteria.weight_gradient import WeightGradient

CRITERIA: Mapping[str, Criterion] = {
    criterion.name: criterion
    for criterion in (
        Fisher(),
        L2Norm(),
        WeightGradient(),
        GradientNorm(),
        FirstOrder(),
        FirstOrderAdam(),
        StepGain(),
        Random(),
    )
}

__all__ = [
    "CRITERIA",
    "LOSSES",
    "Criterion",
    "CrossEntropy",
    "FirstOrder",
    "FirstOrderAdam",
    "Fisher",
    "GradientNorm",
    "L2Norm",
    "Loss",
    "PrototypeLoss",
    "Random",
    "Request",
    "StepGain",
    "WeightGradient",
    "prototype_loss",
]
