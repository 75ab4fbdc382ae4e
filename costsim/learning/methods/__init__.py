"""Every way to adapt that is compared, one a file, behind `Method` of `costsim.learning`.

`METHODS` names them as the paper does; GainTrain is not of it.
A method's options are the fields of its dataclass.
"""

from typing import TYPE_CHECKING

from costsim.base.registry import Entry, Registry
from costsim.solvers import SOLVERS

if TYPE_CHECKING:
    from costsim.learning.adaptation.method import Method

METHODS: "Registry[Method]" = Registry(
    "method",
    {
        "None": Entry("costsim.learning.methods.none:NoAdaptation", "the network as it is"),
        "FullTrain": Entry("costsim.learning.methods.full_train:FullTrain", "all of the network"),
        "LastLayer": Entry("costsim.learning.methods.last_layer:LastLayer", "its last layer"),
        "TinyTL": Entry(
            "costsim.learning.methods.tinytl:TinyTL", "biases, and small modules beside the blocks"
        ),
        "AdapterDrop-25%": Entry(
            "costsim.learning.methods.tinytl:TinyTL",
            "TinyTL without the first quarter of its modules",
            {"dropped": 0.25},
        ),
        "AdapterDrop-50%": Entry(
            "costsim.learning.methods.tinytl:TinyTL", "without half of them", {"dropped": 0.5}
        ),
        "AdapterDrop-75%": Entry(
            "costsim.learning.methods.tinytl:TinyTL",
            "without three quarters of them",
            {"dropped": 0.75},
        ),
        "Transductive": Entry(
            "costsim.learning.methods.transductive:Transductive",
            "all of the network, by the looks of the query images too",
        ),
        "SparseUpdate": Entry(
            "costsim.learning.methods.sparse_update:SparseUpdate",
            "a scheme its authors published, the same for all tasks",
        ),
        "SparseUpdate (search)": Entry(
            "costsim.learning.methods.sparse_update:SearchedScheme",
            "one found as they found theirs, within the budgets; needs --source",
            tags={"source"},
        ),
        "BiasOnly": Entry(
            "costsim.learning.methods.bias_only:BiasOnly", "every bias", {"last": None}
        ),
        "TinyTrain": Entry(
            "costsim.learning.methods.tinytrain:TinyTrain",
            "the channels that matter most to the task within the budgets",
        ),
        "TinyTrain (exact)": Entry(
            "costsim.learning.methods.tinytrain:TinyTrain",
            "the same by the exact solver",
            {"solver": SOLVERS.entries["exact"]},
        ),
        "TinyTrain (exact, biases)": Entry(
            "costsim.learning.methods.tinytrain:TinyTrain",
            "with biases to choose from too",
            {"solver": SOLVERS.entries["exact"], "axes": ("output", "bias")},
        ),
        "GainTrain": Entry(
            "costsim.learning.methods.gain_train:GainTrain", "by what a step would bring"
        ),
        "TinyTrain (l2_norm)": Entry(
            "costsim.learning.methods.tinytrain:TinyTrain",
            "ablation: by the norm of the weights",
            {"criterion": "l2_norm"},
        ),
        "TinyTrain (random)": Entry(
            "costsim.learning.methods.tinytrain:TinyTrain",
            "ablation: by lot",
            {"criterion": "random"},
        ),
        "TinyTrain (static)": Entry(
            "costsim.learning.methods.tinytrain:TinyTrain",
            "ablation: the same for all tasks; needs --source",
            {"static": True},
            {"source"},
        ),
    },
    group="costsim.methods",
    kind="costsim.learning.adaptation.method:Method",
)
"""`source`: the method chooses by tasks of other images, which must be given."""


def make_method(name: str) -> "Method":
    """The method called `name` with its default options; in any case of letters.

    Raises `InputError` for another name.
    """
    return METHODS.make(next((one for one in METHODS if one.lower() == name.lower()), name))
