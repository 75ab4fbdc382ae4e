"""Plan, price and check sparse training on devices too small to train on.

What is named in `__all__` is imported from where it is defined when it is first asked for, so
that `import costsim` loads neither torch nor numpy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from costsim.base.errors import CostsimError, InputError
    from costsim.data import FixedEpisode, digits, sample_episode
    from costsim.device import DeviceSpec, load_device
    from costsim.ir.graph import LayerGraph
    from costsim.ir.plan import ChannelSubset, UpdatePlan
    from costsim.ir.program import TrainingProgram, compile_program
    from costsim.ir.recipe import Recipe
    from costsim.ir.step import BitWidths, TrainingStep
    from costsim.learning.adaptation.guard import make_guard
    from costsim.learning.adaptation.one_task import adapt
    from costsim.learning.adaptation.place import Place
    from costsim.learning.adaptation.situation import Situation
    from costsim.learning.methods import make_method
    from costsim.learning.training.backbone import load_backbone
    from costsim.models.tracing import trace
    from costsim.planning import PlanRequest, make_plan
    from costsim.pricing.cost import price
    from costsim.run.sparse import sparsify
    from costsim.solving.planfile import PlanFile, read_plan, write_plan

__version__ = "0.1.0"

__all__ = [
    "BitWidths",
    "ChannelSubset",
    "CostsimError",
    "DeviceSpec",
    "FixedEpisode",
    "InputError",
    "LayerGraph",
    "Place",
    "PlanFile",
    "PlanRequest",
    "Recipe",
    "Situation",
    "TrainingProgram",
    "TrainingStep",
    "UpdatePlan",
    "adapt",
    "compile_program",
    "digits",
    "load_backbone",
    "load_device",
    "make_guard",
    "make_method",
    "make_plan",
    "price",
    "read_plan",
    "sample_episode",
    "sparsify",
    "trace",
    "write_plan",
]

_HOMES = {
    "base.errors": (
        "CostsimError",
        "InputError",
    ),
    "data": (
        "FixedEpisode",
        "digits",
        "sample_episode",
    ),
    "device": (
        "DeviceSpec",
        "load_device",
    ),
    "ir.graph": ("LayerGraph",),
    "ir.plan": (
        "ChannelSubset",
        "UpdatePlan",
    ),
    "ir.program": (
        "TrainingProgram",
        "compile_program",
    ),
    "ir.recipe": ("Recipe",),
    "ir.step": (
        "BitWidths",
        "TrainingStep",
    ),
    "learning.training.backbone": ("load_backbone",),
    "learning.adaptation.guard": ("make_guard",),
    "learning.adaptation.one_task": ("adapt",),
    "learning.adaptation.place": ("Place",),
    "learning.adaptation.situation": ("Situation",),
    "learning.methods": ("make_method",),
    "models.tracing": ("trace",),
    "planning": (
        "PlanRequest",
        "make_plan",
    ),
    "pricing.cost": ("price",),
    "run.sparse": ("sparsify",),
    "solving.planfile": (
        "PlanFile",
        "read_plan",
        "write_plan",
    ),
}


def __getattr__(name: str) -> Any:
    home = next((module for module, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
