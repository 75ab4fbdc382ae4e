"""Adapting a network to one user's task, by any method, on the budgets of a device."""

from costsim.adaptation.adapt import Adapted, adapt
from costsim.adaptation.backbone import Backbone, load_backbone
from costsim.adaptation.cost import MethodCost, method_cost
from costsim.adaptation.guard import CrossValidation, Guard, LeaveOneOut, NoGuard, make_guard
from costsim.adaptation.method import Choice, Method, NothingFits
from costsim.adaptation.place import Place
from costsim.adaptation.settings import Settings
from costsim.adaptation.situation import Situation
from costsim.adaptation.source import DEFAULT_SOURCE_TASKS, source_situations

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
