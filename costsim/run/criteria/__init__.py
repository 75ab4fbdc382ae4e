"""How important each channel is: one criterion a file, all behind one interface.

To add one: a frozen dataclass in a file of its own and an entry in `CRITERIA`. Nothing here
imports torch until a criterion that needs it is asked for scores.
"""

from typing import TYPE_CHECKING

from costsim.base.registry import Entry, Registry

if TYPE_CHECKING:
    from costsim.run.criteria.base import Criterion

CRITERIA: "Registry[Criterion]" = Registry(
    "criterion",
    {
        "fisher": Entry(
            "costsim.run.criteria.fisher:Fisher",
            "the paper's: Fisher information of the channel's outputs",
        ),
        "l2_norm": Entry(
            "costsim.run.criteria.l2_norm:L2Norm", "the norm of its weights, without samples"
        ),
        "weight_gradient": Entry(
            "costsim.run.criteria.weight_gradient:WeightGradient", "weights times gradients"
        ),
        "gradient_norm": Entry(
            "costsim.run.criteria.gradient_norm:GradientNorm", "the norm of its gradient"
        ),
        "first_order": Entry(
            "costsim.run.criteria.first_order:FirstOrder", "what a small step of SGD would bring"
        ),
        "first_order_adam": Entry(
            "costsim.run.criteria.first_order:FirstOrderAdam", "what one of Adam would bring"
        ),
        "step_gain": Entry(
            "costsim.run.criteria.step_gain:StepGain",
            "what a step of its size would bring, curvature and all",
        ),
        "random": Entry("costsim.run.criteria.random:Random", "by lot, from the seed"),
    },
    group="costsim.criteria",
    kind="costsim.run.criteria.base:Criterion",
    of_function="costsim.run.criteria.base:FunctionCriterion",
)


def make_criterion(given: "str | Criterion") -> "Criterion":
    """The criterion of a name, or the one that is given itself.

    Raises `InputError` for an unknown name.
    """
    return CRITERIA.make(given) if isinstance(given, str) else given
