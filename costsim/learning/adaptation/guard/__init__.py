"""Rules that keep an adaptation from doing harm, by the support images alone.

Where the network as it is already does best, every change is for the worse. A guard asks how much
of the change to keep: with `w0` the base and `w` what the training made of it, `w0 + s (w - w0)`
for a share s of 0 to 1. It is handed the task without its query images.
"""

from collections.abc import Callable, Mapping

from costsim.base.errors import InputError
from costsim.learning.adaptation.guard.base import Fit, Guard, NoGuard
from costsim.learning.adaptation.guard.cross_validation import CrossValidation, divide
from costsim.learning.adaptation.guard.leave_one_out import LeaveOneOut, leave_one_out_similarity
from costsim.learning.adaptation.guard.likelihood import SHARES, TEMPERATURES, Judged
from costsim.learning.adaptation.guard.shrinkage import Shrinkage

GUARDS: Mapping[str, Callable[[], Guard]] = {
    "none": NoGuard,
    "shrink": Shrinkage,
    "leave-one-out": LeaveOneOut,
    "2-fold": CrossValidation,
    "5-fold": lambda: CrossValidation(folds=5),
    "2-fold, 3 rates": lambda: CrossValidation(rate_factors=(1.0, 3.0, 10.0)),
}


def make_guard(name: str) -> Guard:
    """The guard called `name`; raises `InputError` for another name."""
    if name not in GUARDS:
        raise InputError(f"guard {name!r} is unknown; known are {'; '.join(GUARDS)}")
    return GUARDS[name]()


__all__ = [
    "GUARDS",
    "SHARES",
    "TEMPERATURES",
    "CrossValidation",
    "Fit",
    "Guard",
    "Judged",
    "LeaveOneOut",
    "NoGuard",
    "Shrinkage",
    "divide",
    "leave_one_out_similarity",
    "make_guard",
]
