"""Every way to adapt that is compared, one a file, behind `costsim.learning.adaptation.Method`.

`METHODS` names them as the paper does; GainTrain is not of it.
A method's options are the fields of its dataclass.
"""

from collections.abc import Callable, Mapping

from costsim.base.errors import InputError
from costsim.learning.adaptation.method import Choice, Method
from costsim.learning.methods.bias_only import BiasOnly
from costsim.learning.methods.full_train import FullTrain
from costsim.learning.methods.gain_train import GainTrain
from costsim.learning.methods.last_layer import LastLayer
from costsim.learning.methods.none import NoAdaptation
from costsim.learning.methods.sparse_update import SearchedScheme, SparseUpdate
from costsim.learning.methods.static import static_importance
from costsim.learning.methods.tinytl import TinyTL
from costsim.learning.methods.tinytrain import TinyTrain
from costsim.learning.methods.transductive import Transductive
from costsim.solvers import Exact

METHODS: Mapping[str, Callable[[], Method]] = {
    "None": NoAdaptation,
    "FullTrain": FullTrain,
    "LastLayer": LastLayer,
    "TinyTL": TinyTL,
    "AdapterDrop-25%": lambda: TinyTL(dropped=0.25),
    "AdapterDrop-50%": lambda: TinyTL(dropped=0.5),
    "AdapterDrop-75%": lambda: TinyTL(dropped=0.75),
    "Transductive": Transductive,
    "SparseUpdate": SparseUpdate,
    "SparseUpdate (search)": SearchedScheme,
    "BiasOnly": lambda: BiasOnly(last=None),
    "TinyTrain": TinyTrain,
    "TinyTrain (exact)": lambda: TinyTrain(solver=Exact()),
    "TinyTrain (exact, biases)": lambda: TinyTrain(solver=Exact(), axes=("output", "bias")),
    "GainTrain": GainTrain,
    "TinyTrain (l2_norm)": lambda: TinyTrain(criterion="l2_norm"),
    "TinyTrain (random)": lambda: TinyTrain(criterion="random"),
    "TinyTrain (static)": lambda: TinyTrain(static=True),
}


def make_method(name: str) -> Method:
    """The method called `name` with its default options; in any case of letters.

    Raises `InputError` for another name.
    """
    found = {known.lower(): known for known in METHODS}.get(name.lower())
    if found is None:
        raise InputError(f"method {name!r} is unknown; known are {', '.join(METHODS)}")
    return METHODS[found]()


__all__ = [
    "METHODS",
    "BiasOnly",
    "Choice",
    "FullTrain",
    "GainTrain",
    "LastLayer",
    "Method",
    "NoAdaptation",
    "SearchedScheme",
    "SparseUpdate",
    "TinyTL",
    "TinyTrain",
    "Transductive",
    "make_method",
    "static_importance",
]
