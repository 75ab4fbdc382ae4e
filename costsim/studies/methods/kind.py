"""Studies of methods, as the engine of studies sees them."""

from dataclasses import dataclass, field
from pathlib import Path

from costsim.learning.methods import make_method
from costsim.studies.engine import Kind
from costsim.studies.methods.cells import MethodCell, MethodStudy
from costsim.studies.methods.spec import KEYS, MethodStudyReader
from costsim.studies.methods.store import COLUMNS, SCHEMA
from costsim.studies.methods.work import MakeMethod, MethodWorkshop


@dataclass(frozen=True)
class MethodStudies(Kind[MethodCell]):
    """Methods by `make_method` on models, domains, seeds and devices."""

    make_method: MakeMethod = field(default=make_method)

    schema = SCHEMA
    columns = COLUMNS
    broken = "failed"
    keys = KEYS
    doing = "adapting"
    preload = (
        "costsim.learning.adaptation.one_task",
        "costsim.learning.methods.tinytrain",
        "costsim.studies.methods.work",
    )

    def study(self, document: object, source: str, folder: Path) -> MethodStudy:
        """See `costsim.studies.methods.spec`."""
        return MethodStudyReader(source, folder).study(document)

    def workshop(self) -> MethodWorkshop:
        """Where methods adapt."""
        return MethodWorkshop(self.make_method, self.broken)
