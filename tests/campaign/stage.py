"""Where experiments are done: folders, processes that start at once, and benches made only once."""

import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from .bench import Bench
from .commands import Warm
from .workloads import WORKLOADS


class Stage:
    """A folder for as long as the context is open, and what is shared in it."""

    def __enter__(self) -> Self:
        with ExitStack() as opening:
            name = opening.enter_context(tempfile.TemporaryDirectory(prefix="campaign-"))
            self.folder = Path(name)
            self._warm: Warm | None = None
            self._templates: dict[object, Path] = {}
            self._benches: dict[str, Bench] = {}
            self._folders = 0
            self._closing = opening.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.close()

    def new(self) -> Path:
        """An empty folder."""
        self._folders += 1
        place = self.folder / f"{self._folders}"
        place.mkdir()
        return place

    @property
    def warm(self) -> Warm:
        """What real processes are forked from."""
        if self._warm is None:
            self._warm = self._closing.enter_context(Warm(self.new()))
        return self._warm

    def template(self, command: str) -> Path:
        """What the workload of this name is given; not to be changed."""
        prepare = WORKLOADS[command].prepare
        if prepare not in self._templates:
            place = self.new()
            prepare(place, self.warm)
            self._templates[prepare] = place
        return self._templates[prepare]

    def bench(self, command: str) -> Bench:
        """Of the workload of this name."""
        if command not in self._benches:
            self._benches[command] = Bench(
                WORKLOADS[command], self.new(), self.warm, self.template(command)
            )
        return self._benches[command]
