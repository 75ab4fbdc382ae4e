"""The comparison study: solvers on many problems, every answer one row that is kept.

The solvers come in as a function from a name, so that nothing here knows which there are.
"""

from costsim.studies.solvers.cells import SolverCell, SolverStudy
from costsim.studies.solvers.kind import SolverStudies

__all__ = ["SolverCell", "SolverStudies", "SolverStudy"]
