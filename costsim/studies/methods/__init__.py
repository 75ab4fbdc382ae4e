"""A study of methods: models, methods, domains, seeds and devices, each combination once."""

from costsim.studies.methods.cells import MethodCell, MethodStudy
from costsim.studies.methods.kind import MethodStudies

__all__ = ["MethodCell", "MethodStudies", "MethodStudy"]
