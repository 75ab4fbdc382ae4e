"""Studies of solvers, as the engine of studies sees them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from costsim.solvers import make_solver
from costsim.studies.engine import Kind
from costsim.studies.solvers.cells import SolverCell, SolverStudy
from costsim.studies.solvers.spec import KEYS, SolverStudyReader
from costsim.studies.solvers.store import COLUMNS, SCHEMA
from costsim.studies.solvers.work import MakeSolver, SolverWorkshop


@dataclass(frozen=True)
class SolverStudies(Kind[SolverCell]):
    """Solvers by `make_solver` on models, devices, budgets and tasks."""

    make_solver: MakeSolver = field(default=make_solver)

    schema = SCHEMA
    columns = COLUMNS
    broken = "error"
    keys = KEYS
    doing = "solving"
    preload = (
        "costsim.studies.solvers.work",
        "costsim.run.criteria.passes",
        "costsim.solvers.exact",
    )
    shared_table = "importances"

    def study(self, document: object, source: str, folder: Path) -> SolverStudy:
        """See `costsim.studies.solvers.spec`."""
        return SolverStudyReader(source, folder, self.make_solver).study(document)

    def workshop(self) -> SolverWorkshop:
        """Where solvers are asked."""
        return SolverWorkshop(self.make_solver, self.broken)

    def in_order(self, cells: Sequence[SolverCell]) -> list[SolverCell]:
        """Cells of other scores first, so that workers begin by scoring different tasks."""
        devices: defaultdict[str, dict[str, int]] = defaultdict(dict)
        rank = {}
        for cell in cells:
            seen = devices[cell.shared_key]
            rank[cell.key] = seen.setdefault(cell.device_digest, len(seen))
        return sorted(cells, key=lambda cell: rank[cell.key])
