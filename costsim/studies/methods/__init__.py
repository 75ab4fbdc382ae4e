"""A study of methods: models, methods, domains, seeds and devices, each combination once."""

from costsim.studies.methods.cells import Cell, Study
from costsim.studies.methods.spec import parse_study, read_study

__all__ = ["Cell", "Study", "parse_study", "read_study"]
