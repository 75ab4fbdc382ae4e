"""Plan, price and check sparse training on devices too small to train on.

What is named in `__all__` is imported from where it is defined when it is first asked for, so
that `import costsim` loads neither torch nor numpy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from costsim.base.errors import CostsimError, InputError
    from costsim.device import DeviceSpec, load_device
    from costsim.ir.graph import LayerGraph
    from costsim.ir.plan import ChannelSubset, UpdatePlan
    from costsim.ir.program import TrainingProgram, compile_program
    from costsim.ir.step import BitWidths, TrainingStep
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
    "InputError",
    "LayerGraph",
    "PlanFile",
    "PlanRequest",
    "TrainingProgram",
    "TrainingStep",
    "UpdatePlan",
    "compile_program",
    "load_device",
    "make_plan",
    "price",
    "read_plan",
    "sparsify",
    "trace",
    "write_plan",
]

_HOMES = {
    "pricing.cost": ("price",),
    "device": ("DeviceSpec", "load_device"),
    "base.errors": ("CostsimError", "InputError"),
    "ir.graph": ("LayerGraph",),
    "ir.plan": ("ChannelSubset", "UpdatePlan"),
    "solving.planfile": ("PlanFile", "read_plan", "write_plan"),
    "planning": ("PlanRequest", "make_plan"),
    "ir.program": ("TrainingProgram", "compile_program"),
    "run.sparse": ("sparsify",),
    "ir.step": ("BitWidths", "TrainingStep"),
    "models.tracing": ("trace",),
}


def __getattr__(name: str) -> Any:
    home = next((module for module, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
