"""The comparison study: solvers on many problems, every answer one row that is kept."""

from costsim.studies.solvers.cells import SolverCell, SolverStudy
from costsim.studies.solvers.kind import SolverStudies

__all__ = ["SolverCell", "SolverStudies", "SolverStudy"]
