"""Plan, price and check sparse training on devices too small to train on.

What is named in `__all__` is imported from where it is defined when it is first asked for, so
that `import costsim` loads neither torch nor numpy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from costsim.cost import price
    from costsim.device import DeviceSpec, load_device
    from costsim.errors import CostsimError, InputError
    from costsim.graph import LayerGraph
    from costsim.plan import ChannelSubset, UpdatePlan
    from costsim.planfile import PlanFile, read_plan, write_plan
    from costsim.planner import PlanRequest, make_plan
    from costsim.program import TrainingProgram, compile_program
    from costsim.sparse import sparsify
    from costsim.step import BitWidths, TrainingStep
    from costsim.tracing import trace

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
    "cost": ("price",),
    "device": ("DeviceSpec", "load_device"),
    "errors": ("CostsimError", "InputError"),
    "graph": ("LayerGraph",),
    "plan": ("ChannelSubset", "UpdatePlan"),
    "planfile": ("PlanFile", "read_plan", "write_plan"),
    "planner": ("PlanRequest", "make_plan"),
    "program": ("TrainingProgram", "compile_program"),
    "sparse": ("sparsify",),
    "step": ("BitWidths", "TrainingStep"),
    "tracing": ("trace",),
}


def __getattr__(name: str) -> Any:
    home = next((module for module, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
