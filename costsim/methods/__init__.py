"""Every way to adapt that is compared, one a file, behind `costsim.adaptation.Method`.

`METHODS` names them as the paper does. A method's options are the fields of its dataclass.
"""

from collections.abc import Callable, Mapping

from costsim.adaptation.method import Choice, Method
from costsim.errors import InputError
from costsim.methods.full_train import FullTrain
from costsim.methods.last_layer import LastLayer
from costsim.methods.none import NoAdaptation
from costsim.methods.tinytrain import TinyTrain
from costsim.solvers import Exact

METHODS: Mapping[str, Callable[[], Method]] = {
    "None": NoAdaptation,
    "FullTrain": FullTrain,
    "LastLayer": LastLayer,
    "TinyTrain": TinyTrain,
    "TinyTrain (exact)": lambda: TinyTrain(solver=Exact()),
}


def make_method(name: str) -> Method:
    """The method called `name` with its default options; raises `InputError` for another name."""
    if name not in METHODS:
        raise InputError(f"method {name!r} is unknown; known are {', '.join(METHODS)}")
    return METHODS[name]()


__all__ = [
    "METHODS",
    "Choice",
    "FullTrain",
    "LastLayer",
    "Method",
    "NoAdaptation",
    "TinyTrain",
    "make_method",
]
