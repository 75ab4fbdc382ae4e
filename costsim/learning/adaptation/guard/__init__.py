"""Rules that keep an adaptation from doing harm, by the support images alone.

Where the network as it is already does best, every change is for the worse. A guard asks how much
of the change to keep: with `w0` the base and `w` what the training made of it, `w0 + s (w - w0)`
for a share s of 0 to 1. It is handed the task without its query images.
"""

from typing import TYPE_CHECKING

from costsim.base.registry import Entry, Registry

if TYPE_CHECKING:
    from costsim.learning.adaptation.guard.base import Guard

GUARDS: "Registry[Guard]" = Registry(
    "guard",
    {
        "none": Entry("costsim.learning.adaptation.guard.base:NoGuard", "all of the change"),
        "shrink": Entry(
            "costsim.learning.adaptation.guard.shrinkage:Shrinkage", "three quarters of it"
        ),
        "leave-one-out": Entry(
            "costsim.learning.adaptation.guard.leave_one_out:LeaveOneOut",
            "what is best for the images themselves",
        ),
        "2-fold": Entry(
            "costsim.learning.adaptation.guard.cross_validation:CrossValidation",
            "what is best for images held out, for about one more training",
        ),
        "5-fold": Entry(
            "costsim.learning.adaptation.guard.cross_validation:CrossValidation",
            "the same, for about four more",
            {"folds": 5},
        ),
        "2-fold, 3 rates": Entry(
            "costsim.learning.adaptation.guard.cross_validation:CrossValidation",
            "the learning rate is chosen by them too, for about three more",
            {"rate_factors": (1.0, 3.0, 10.0)},
        ),
    },
)


def make_guard(name: str) -> "Guard":
    """The guard called `name`; raises `InputError` for another name."""
    return GUARDS.make(name)
