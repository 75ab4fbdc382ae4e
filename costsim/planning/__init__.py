"""From a model, a device and a few samples to a plan: everything `costsim plan` does.

    model ──► LayerGraph ┐
    data ──► Importance ─┼─► Problem ──solve──► Solution ──► PlanFile
    device ──► Budget ───┘

torch is imported when a plan is made, not with this file.
"""

from costsim.data import DEFAULT_SHOTS, DEFAULT_WAYS
from costsim.planning.device_plan import make_plan
from costsim.planning.finished_plan import (
    Planned,
    caveats,
    conclude,
    model_notes,
)
from costsim.planning.posed_problem import Prepared, Scored, parameters_digest, prepare
from costsim.planning.request import (
    DEFAULT_ITERATIONS,
    DEFAULT_MODEL,
    BudgetRequest,
    PlanRequest,
    default_solver,
)

__all__ = [
    "DEFAULT_ITERATIONS",
    "DEFAULT_MODEL",
    "DEFAULT_SHOTS",
    "DEFAULT_WAYS",
    "BudgetRequest",
    "PlanRequest",
    "Planned",
    "Prepared",
    "Scored",
    "caveats",
    "conclude",
    "default_solver",
    "make_plan",
    "model_notes",
    "parameters_digest",
    "prepare",
]
