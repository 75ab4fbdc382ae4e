"""A study of methods: models, methods, domains, seeds and devices, each combination once."""

from costsim.study.spec import Cell, Study, parse_study, read_study

__all__ = ["Cell", "Study", "parse_study", "read_study"]
