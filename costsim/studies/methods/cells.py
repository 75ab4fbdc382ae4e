"""The cells of a study: one adaptation each, and what its outcome depends on."""

from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from costsim import __version__
from costsim.base.errors import InputError
from costsim.data import EpisodeRule, MetaDatasetEpisode
from costsim.device import load_device
from costsim.ir.recipe import Recipe
from costsim.planning import BudgetRequest
from costsim.planning.request import DEFAULT_SOURCE_TASKS
from costsim.run.native import BACKENDS, Backend
from costsim.studies.engine import (
    Cell,
    ModelChoice,
    Study,
    dated,
    device_digest,
    digest,
    images_digest,
    model_digest,
)

_LATER = (
    "image_interval", "means_interval", "loss", "cut", "cache_in", "batch", "learning_rate"
)  # fmt: skip
"""Of a recipe, what came to it when there were stores already."""


@dataclass(frozen=True)
class MethodChoice:
    """A method of `costsim.learning.methods`; `learning_rate` and `guard` None are its own."""

    method: str
    label: str
    learning_rate: float | None = None
    guard: str | None = None
    needs_source: bool = False


@dataclass(frozen=True)
class DomainChoice:
    """A source of images; without `data` the digits inside scikit-learn."""

    label: str
    data: Path | None = None
    split: str | None = None


@dataclass(frozen=True)
class SourceChoice:
    """So many tasks of other images, for methods that choose the same for all tasks.

    Without `data` the digits inside scikit-learn; tasks are drawn by the study's episode rule.
    """

    data: Path | None = None
    split: str | None = None
    tasks: int = DEFAULT_SOURCE_TASKS


@dataclass(frozen=True)
class MethodCell(Cell):
    """One method on one task of one model and device, with digests of the files' content.

    `source` is there if the method needs one.
    """

    model: ModelChoice
    method: MethodChoice
    domain: DomainChoice
    seed: int
    device: str
    episode: EpisodeRule
    budget: BudgetRequest
    recipe: Recipe
    model_digest: str = ""
    domain_digest: str = ""
    device_digest: str = ""
    source: SourceChoice | None = None
    source_digest: str = ""
    backend: Backend = BACKENDS[0]

    @property
    def _task(self) -> dict[str, Any]:
        return {
            "data": self.domain_digest,
            "split": self.domain.split,
            "seed": self.seed,
            "episode": [type(self.episode).__name__, _plain(self.episode)],
        }

    @property
    def _model(self) -> list[Any]:
        return [self.model.model, self.model_digest, self.model.resolution]

    @property
    def _settings(self) -> dict[str, Any]:
        """What is not as in the first protocol: cells of before it could be said stay known."""
        told, usual = _plain(self.recipe), _plain(Recipe())
        return {k: v for k, v in told.items() if k not in _LATER or v != usual[k]}

    @property
    def _kernels(self) -> dict[str, Any]:
        """Who computes, where it is not who did when there was no choice."""
        return {} if self.backend == BACKENDS[0] else {"backend": self.backend}

    @property
    def _source(self) -> list[Any]:
        source = self.source
        return [] if source is None else [self.source_digest, source.split, source.tasks]

    @property
    def _situation(self) -> dict[str, Any]:
        return {
            "task": self._task,
            "model": self._model,
            "device": self.device_digest,
            "budget": _plain(self.budget),
            "settings": self._settings,
            "version": __version__,
            **self._kernels,
        }

    @cached_property
    def task_key(self) -> str:
        """Digest of the task: cells that share it saw the same images."""
        return digest(self._task)

    @cached_property
    def group(self) -> str:
        """Digest of everything but the method: cells that share it share work."""
        return digest(self._situation)

    @cached_property
    def source_key(self) -> str:
        """Digest of what the method takes from the source: the same for all tasks and devices."""
        return digest(
            {
                "source": self._source,
                "episode": self._task["episode"],
                "model": self._model,
                "settings": self._settings,
                "method": dated(self.method.method),
                **self._kernels,
            }
        )

    @cached_property
    def key(self) -> str:
        """Digest of what the answer depends on."""
        method: list[Any] = [dated(self.method.method), self.method.learning_rate]
        if self.method.guard is not None:
            method.append(self.method.guard)
        found = {"situation": self._situation, "method": method}
        if self.source is not None:
            found["source"] = self._source
        return digest(found)

    @property
    def head(self) -> dict[str, Any]:
        """What the row says of the cell."""
        return {
            "key": self.key,
            "model": self.model.label,
            "method": self.method.label,
            "domain": self.domain.label,
            "seed": self.seed,
            "device": self.device,
            "task": self.task_key,
            "episode": self.episode.description,
        }


@dataclass(frozen=True)
class MethodStudy(Study[MethodCell]):
    """Everything to run; `cells` is the product of all lists."""

    models: tuple[ModelChoice, ...]
    methods: tuple[MethodChoice, ...]
    domains: tuple[DomainChoice, ...]
    seeds: tuple[int, ...]
    devices: tuple[str, ...] = ("jetson-nano",)
    episode: EpisodeRule = field(default_factory=MetaDatasetEpisode)
    budget: BudgetRequest = field(default_factory=BudgetRequest)
    recipe: Recipe = field(default_factory=Recipe)
    source: SourceChoice | None = None
    backend: Backend = BACKENDS[0]

    def cells(self) -> tuple[MethodCell, ...]:
        """All cells, each once; the first seeds of everything before the next ones.

        A run that is stopped early thus has as many tasks of each method and domain. Raises
        `InputError` for a device or a file that cannot be read, and for the same thing under two
        names, of which a table could show but one.
        """
        devices = {name: device_digest(load_device(name)) for name in self.devices}
        models = {model: model_digest(model.model, model.weights) for model in self.models}
        domains = {domain: images_digest(domain.data) for domain in self.domains}
        source = self.source
        source_digest = "" if source is None else images_digest(source.data)
        found: dict[str, MethodCell] = {}
        for seed in self.seeds:
            for model in self.models:
                for domain in self.domains:
                    for device in self.devices:
                        for method in self.methods:
                            cell = MethodCell(
                                model, method, domain, seed, device, self.episode, self.budget,
                                self.recipe, models[model], domains[domain], devices[device],
                                backend=self.backend,
                            )  # fmt: skip
                            if method.needs_source:
                                cell = replace(cell, source=source, source_digest=source_digest)
                            if found.setdefault(cell.key, cell) is not cell:
                                raise InputError(_twice(found[cell.key], cell))
        return tuple(found.values())


def _twice(first: MethodCell, second: MethodCell) -> str:
    """What two cells are that differ in nothing but names."""
    for kind in ("model", "method", "domain"):
        one, other = getattr(first, kind).label, getattr(second, kind).label
        if one != other:
            return f"{kind}s: {one!r} and {other!r} are the same; leave one out"
    return f"devices: {first.device} and {second.device} are the same; leave one out"


def _plain(value: Any) -> dict[str, Any]:
    return {f.name: getattr(value, f.name) for f in fields(value)}
