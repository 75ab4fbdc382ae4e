"""Studies of methods, as the engine of studies sees them."""

from dataclasses import dataclass
from pathlib import Path

from costsim.studies.engine import Kind
from costsim.studies.methods.cells import MethodCell, MethodStudy
from costsim.studies.methods.spec import KEYS, MethodStudyReader
from costsim.studies.methods.store import COLUMNS, SCHEMA
from costsim.studies.methods.work import MakeMethod, MethodWorkshop


@dataclass(frozen=True)
class MethodStudies(Kind[MethodCell]):
    """Methods by `make_method` on models, domains, seeds and devices.

    `methods` and `guards` are the names that a file may have, `static` the methods that choose by
    tasks of a source.
    """

    make_method: MakeMethod
    methods: tuple[str, ...]
    guards: tuple[str, ...] = ()
    static: tuple[str, ...] = ()

    schema = SCHEMA
    columns = COLUMNS
    broken = "failed"
    keys = KEYS
    doing = "adapting"
    preload = (
        "costsim.learning.adaptation",
        "costsim.learning.methods",
        "costsim.studies.methods.work",
    )

    def study(self, document: object, source: str, folder: Path) -> MethodStudy:
        """See `costsim.studies.methods.spec`."""
        reader = MethodStudyReader(source, folder, self.methods, self.guards, self.static)
        return reader.study(document)

    def workshop(self) -> MethodWorkshop:
        """Where methods adapt."""
        return MethodWorkshop(self.make_method, self.broken)
