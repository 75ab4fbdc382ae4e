"""Adapting a network to one user's task, by any method, on the budgets of a device."""

from costsim.learning.adaptation.backbone import Backbone, load_backbone
from costsim.learning.adaptation.cost import MethodCost, method_cost
from costsim.learning.adaptation.guard import (
    CrossValidation,
    Guard,
    LeaveOneOut,
    NoGuard,
    make_guard,
)
from costsim.learning.adaptation.method import Choice, Method, NothingFits
from costsim.learning.adaptation.one_task import Adapted, adapt
from costsim.learning.adaptation.place import Place
from costsim.learning.adaptation.settings import Settings
from costsim.learning.adaptation.situation import Situation
from costsim.learning.adaptation.source import DEFAULT_SOURCE_TASKS, source_situations

__all__ = [
    "DEFAULT_SOURCE_TASKS",
    "Adapted",
    "Backbone",
    "Choice",
    "CrossValidation",
    "Guard",
    "LeaveOneOut",
    "Method",
    "MethodCost",
    "NoGuard",
    "NothingFits",
    "Place",
    "Settings",
    "Situation",
    "adapt",
    "load_backbone",
    "make_guard",
    "method_cost",
    "source_situations",
]
