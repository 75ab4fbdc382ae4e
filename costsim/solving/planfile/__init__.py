"""The plan file: what was asked, what was chosen, what it will cost. Schema `costsim.plan/2`.

The document is everything a later command needs to train, check or show the plan with the same
model and device again. Numbers in it are in base units; `predicted` is null where no plan is
within the budgets.
"""

from costsim.solving.planfile.construction import plan_file
from costsim.solving.planfile.devices import changed_device
from costsim.solving.planfile.document import PlanFile, read_plan, write_plan
from costsim.solving.planfile.places import (
    WEIGHTS,
    candidates,
    data_found_again,
    found_again,
    model_found_again,
)
from costsim.solving.planfile.questions import ExplanationRecord, SoughtRecord
from costsim.solving.planfile.records import (
    AdaptationRecord,
    DeviceRecord,
    FleetRecord,
    ModelRecord,
    Prediction,
    Range,
    SolverRecord,
    TaskRecord,
    WayRecord,
)

__all__ = [
    "WEIGHTS",
    "AdaptationRecord",
    "DeviceRecord",
    "ExplanationRecord",
    "FleetRecord",
    "ModelRecord",
    "PlanFile",
    "Prediction",
    "Range",
    "SolverRecord",
    "SoughtRecord",
    "TaskRecord",
    "WayRecord",
    "candidates",
    "changed_device",
    "data_found_again",
    "found_again",
    "model_found_again",
    "plan_file",
    "read_plan",
    "write_plan",
]
