"""A study of methods: models, methods, domains, seeds and devices, each combination once."""

from costsim.study.cells import Cell, Study
from costsim.study.spec import parse_study, read_study

__all__ = ["Cell", "Study", "parse_study", "read_study"]
