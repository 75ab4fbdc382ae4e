"""What a study compares: solvers, models, devices, budgets and tasks, from YAML or from options.

    solvers: [exact, greedy]
    models: [mcunet-5fps, {model: mbv2-w0.35, weights: mbv2.pkl}]
    devices: [stm32f746, my-board.yaml]
    budgets: [recommended, {memory: 150%, macs: 30%}]
    tasks: [{data: flowers.tar.gz, seeds: [0, 1], ways: 10, shots: 5}]
    settings: {axis: both, inspect: all}

A cell is one of each. Its key is a digest of everything its answer depends on: the content of the
files, not their names.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from costsim import __version__
from costsim.accounting import ACCOUNTINGS
from costsim.criteria import CRITERIA, LOSSES
from costsim.data import open_images
from costsim.device import DeviceSpec, load_device
from costsim.device.loading import parse_yaml
from costsim.errors import InputError
from costsim.importance import DEFAULT_INSPECTED_LAYERS, SCORED_AXES
from costsim.networks import NETWORKS
from costsim.networks.shipped import shipped_weights
from costsim.planner import DEFAULT_SHOTS, BudgetRequest, PlanRequest
from costsim.solution import Solver
from costsim.step import TrainingStep
from costsim.units import (
    parse_bytes,
    parse_joules,
    parse_macs,
    parse_percent,
    parse_quantity,
    parse_seconds,
)

OPTIMIZERS: Mapping[str, Literal["sgd", "momentum", "adam"]] = {
    "sgd": "sgd",
    "momentum": "momentum",
    "adam": "adam",
}
KEYS = ("solvers", "models", "devices", "budgets", "tasks", "settings")
LARGEST_SEED = 2**63 - 1

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A model as `--model` names it, with its weights."""

    model: str
    weights: Path | None = None

    @property
    def label(self) -> str:
        """What a table calls it."""
        return self.model


@dataclass(frozen=True, slots=True)
class BudgetChoice:
    """Limits on a step; what is not given is what the device's file recommends.

    `memory_scale` is a share of the recommended memory, `macs_share` one of the full backward.
    """

    label: str
    memory_bytes: int | None = None
    memory_scale: float | None = None
    accounting: str | None = None
    macs: int | None = None
    macs_share: float | None = None
    latency_s: float | None = None
    energy_j: float | None = None

    def on(self, device: DeviceSpec) -> BudgetRequest:
        """The request for `device`."""
        memory = self.memory_bytes
        if self.memory_scale is not None:
            memory = int(self.memory_scale * device.training_budget.memory_bytes)
        return BudgetRequest(
            memory_bytes=memory,
            accounting=self.accounting,
            macs=self.macs,
            macs_share=self.macs_share,
            latency_s=self.latency_s,
            energy_j=self.energy_j,
        )


@dataclass(frozen=True, slots=True)
class TaskChoice:
    """The samples of one user; without `data` the digits."""

    data: Path | None = None
    split: str | None = None
    seed: int = 0
    ways: int | None = None
    shots: int = DEFAULT_SHOTS

    @property
    def domain(self) -> str:
        """What a table calls the source of the samples."""
        if self.data is None:
            return "digits"
        name = self.data.name
        for suffix in (".tar.gz", ".tgz", ".tar", ".zip"):
            name = name.removesuffix(suffix)
        return name if self.split is None else f"{name}/{self.split}"


@dataclass(frozen=True, slots=True)
class Settings:
    """What is the same in all cells of a study."""

    criterion: str = "fisher"
    loss: str = "prototype"
    axis: str = "output"
    inspect: int | None = DEFAULT_INSPECTED_LAYERS
    bias: bool = False
    batch: int = 1
    optimizer: str = "sgd"
    resolution: int | None = None
    time_limit_s: float | None = None
    accuracy: bool = False
    """Whether each plan is trained on its task, and tested on other samples of it."""


@dataclass(frozen=True)
class Cell:
    """One solver on one problem. `model_digest` and `data_digest` are of the files' content."""

    solver: str
    model: ModelChoice
    device: str
    budget: BudgetChoice
    task: TaskChoice
    settings: Settings
    model_digest: str = ""
    device_digest: str = ""
    data_digest: str = ""

    @property
    def _scored(self) -> dict[str, Any]:
        """What the scores depend on."""
        settings = asdict(self.settings)
        names = ("criterion", "loss", "axis", "inspect", "resolution")
        return {
            "model": self.model.model,
            "weights": self.model_digest,
            "data": self.data_digest,
            "task": [self.task.split, self.task.seed, self.task.ways, self.task.shots],
            "settings": {name: settings[name] for name in names},
            "version": __version__,
        }

    @property
    def importance_key(self) -> str:
        """Digest of what the channel scores depend on."""
        return _digest(self._scored)

    @property
    def problem_key(self) -> str:
        """Digest of what the problem depends on: cells that differ in the solver share it."""
        budget = {k: v for k, v in asdict(self.budget).items() if k != "label"}
        aside = ("time_limit_s", "accuracy")
        step = {k: v for k, v in asdict(self.settings).items() if k not in aside}
        return _digest(
            {**self._scored, "device": self.device_digest, "budget": budget, "settings": step}
        )

    @property
    def key(self) -> str:
        """Digest of what the answer depends on."""
        limit = self.settings.time_limit_s
        asked = {"problem": self.problem_key, "solver": self.solver, "time_limit": limit}
        return _digest(asked | ({"accuracy": True} if self.settings.accuracy else {}))

    def request(self, solver: Solver) -> PlanRequest:
        """What `costsim plan` would be asked."""
        device, settings = load_device(self.device), self.settings
        return PlanRequest(
            device=device,
            solver=solver,
            model=self.model.model,
            weights=self.model.weights,
            resolution=settings.resolution,
            data=self.task.data,
            split=self.task.split,
            ways=self.task.ways,
            shots=self.task.shots,
            criterion=settings.criterion,
            loss=settings.loss,
            axes=SCORED_AXES[settings.axis],
            inspect=settings.inspect,
            with_bias=settings.bias,
            step=TrainingStep(
                batch=settings.batch,
                optimizer=OPTIMIZERS[settings.optimizer],
                bits=device.bits.usual,
            ),
            budget=self.budget.on(device),
            seed=self.task.seed,
            needs_kernels=False,  # solvers are compared, nothing is exported
        )


@dataclass(frozen=True)
class Study:
    """Everything to compare; `cells` is the product of all lists."""

    solvers: tuple[str, ...] = ("exact", "greedy")
    models: tuple[ModelChoice, ...] = (ModelChoice("mcunet-5fps"),)
    devices: tuple[str, ...] = ("jetson-nano", "pi-zero-2", "stm32f746", "stm32h743")
    budgets: tuple[BudgetChoice, ...] = (BudgetChoice("recommended"),)
    tasks: tuple[TaskChoice, ...] = (TaskChoice(),)
    settings: Settings = field(default_factory=Settings)

    def cells(self) -> tuple[Cell, ...]:
        """All cells, those of one model, task and device together, each once.

        Raises `InputError` for a device or a file that cannot be read.
        """
        devices = {name: load_device(name) for name in self.devices}
        told = {
            name: _digest(device.model_dump(mode="json", warnings=False))
            for name, device in devices.items()
        }
        found: dict[str, Cell] = {}
        for model in self.models:
            weights = file_digest(model.weights) if model.weights else _model_digest(model.model)
            for task in self.tasks:
                data = "digits" if task.data is None else file_digest(task.data)
                for device in self.devices:
                    for budget in self.budgets:
                        for solver in self.solvers:
                            cell = Cell(
                                solver, model, device, budget, task, self.settings,
                                weights, told[device], data,
                            )  # fmt: skip
                            found.setdefault(cell.key, cell)
        return tuple(found.values())


def _digest(document: object) -> str:
    text = json.dumps(document, sort_keys=True, default=str, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _model_digest(spec: str) -> str:
    """Of a model without a weights file: what it comes with, or the program's content, if any."""
    if (shipped := shipped_weights(spec)) is not None:
        return file_digest(shipped)
    path = Path(spec)
    return file_digest(path) if spec.endswith(".pt2") and path.is_file() else ""


@lru_cache(maxsize=256)
def file_digest(path: Path) -> str:
    """Digest of a file's bytes; of a folder's names and sizes. Raises `InputError`."""
    digest = hashlib.sha256()
    try:
        if path.is_dir():
            for file in sorted(p for p in path.rglob("*") if p.is_file()):
                digest.update(f"{file.relative_to(path)} {file.stat().st_size}\n".encode())
        else:
            with path.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()[:24]


# Reading.


def read_study(path: Path) -> dict[str, Any]:
    """The YAML file at `path` as a document for `parse_study`."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    document = parse_yaml(content, str(path))
    return _mapping(document, KEYS, f"{path}")


def parse_study(
    document: Mapping[str, Any],
    source: str,
    *,
    make_solver: Callable[[str], Solver],
    folder: Path = Path(),
) -> Study:
    """The study that `document` describes; paths in it are relative to `folder`.

    Raises `InputError` with `source`, the key, what was given and what is allowed.
    """
    given = _mapping(document, KEYS, source)
    default = Study()
    reader = _Reader(source, folder, make_solver)
    return Study(
        solvers=reader.listed(given, "solvers", reader.solver, default.solvers),
        models=reader.listed(given, "models", reader.model, default.models),
        devices=reader.listed(given, "devices", reader.device, default.devices),
        budgets=reader.listed(given, "budgets", reader.budget, default.budgets),
        tasks=tuple(
            task
            for tasks in reader.listed(given, "tasks", reader.tasks, (default.tasks,))
            for task in tasks
        ),
        settings=reader.settings(given.get("settings", {})),
    )


def _mapping(given: object, allowed: Sequence[str], where: str) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        kind = "empty" if given is None else f"{given!r}" if _plain(given) else "a list"
        raise InputError(f"{where}: is {kind}; a mapping of {', '.join(allowed)} is needed")
    for key in given:
        if key not in allowed:
            raise InputError(f"{where}: {key}: unknown key; allowed are {', '.join(allowed)}")
    return dict(given)


def _plain(given: object) -> bool:
    return isinstance(given, str | int | float | bool)


@dataclass(frozen=True)
class _Reader:
    source: str
    folder: Path
    make_solver: Callable[[str], Solver]

    def where(self, key: str) -> str:
        return f"{self.source}: {key}"

    def listed(
        self,
        given: Mapping[str, Any],
        key: str,
        read: Callable[[Any, str], T],
        default: tuple[T, ...],
    ) -> tuple[T, ...]:
        if key not in given:
            return default
        items = given[key]
        if not isinstance(items, list) or not items:
            raise InputError(f"{self.where(key)}: a list of at least one is needed")
        return tuple(read(item, f"{key}[{i}]") for i, item in enumerate(items))

    def text(self, given: object, key: str) -> str:
        if not isinstance(given, str) or not given:
            raise InputError(f"{self.where(key)}: is {given!r}; text is needed")
        return given

    def number(self, given: object, key: str, least: int, most: int) -> int:
        if isinstance(given, bool) or not isinstance(given, int) or not least <= given <= most:
            raise InputError(
                f"{self.where(key)}: is {given!r}; a whole number from {least} to {most} is needed"
            )
        return given

    def one_of(self, given: object, key: str, allowed: Sequence[str]) -> str:
        if given not in allowed:
            raise InputError(f"{self.where(key)}: is {given!r}; allowed are {', '.join(allowed)}")
        return str(given)

    def path(self, given: object, key: str) -> Path:
        path = self.folder / self.text(given, key)
        if not path.exists():
            raise InputError(f"{self.where(key)}: {path} does not exist")
        return path

    def solver(self, given: object, key: str) -> str:
        name = self.text(given, key)
        try:
            self.make_solver(name)
        except InputError as error:
            raise InputError(f"{self.where(key)}: {error}") from error
        return name

    def device(self, given: object, key: str) -> str:
        name = self.text(given, key)
        if (self.folder / name).is_file():
            name = str(self.folder / name)
        try:
            load_device(name)
        except InputError as error:
            raise InputError(f"{self.where(key)}: {error}") from error
        return name

    def model(self, given: object, key: str) -> ModelChoice:
        if isinstance(given, str):
            given = {"model": given}
        entry = _mapping(given, ("model", "weights"), self.where(key))
        name = self.text(entry.get("model"), f"{key}.model")
        if name.endswith(".pt2"):
            name = str(self.path(name, f"{key}.model"))
        elif name not in NETWORKS and ":" not in name:
            raise InputError(
                f"{self.where(f'{key}.model')}: {name!r} is unknown; give one of "
                f"{', '.join(NETWORKS)}, package.module:factory, or a .pt2 file"
            )
        weights = entry.get("weights")
        return ModelChoice(name, None if weights is None else self.path(weights, f"{key}.weights"))

    def budget(self, given: object, key: str) -> BudgetChoice:
        names = ("memory", "accounting", "macs", "latency", "energy")
        if given == "recommended":
            return BudgetChoice("recommended")
        if isinstance(given, str):
            pairs = [part.partition("=") for part in given.split(",")]
            if bad := [name for name, equals, _ in pairs if not equals]:
                raise InputError(
                    f"{self.where(key)}: cannot read {bad[0]!r}; give recommended, or NAME=VALUE "
                    f"with NAME one of {', '.join(names)}"
                )
            given = {name.strip(): value.strip() for name, _, value in pairs}
        entry = _mapping(given, names, self.where(key))
        texts = {k: str(v) for k, v in entry.items() if _plain(v) and not isinstance(v, bool)}
        if not texts or len(texts) < len(entry):
            raise InputError(f"{self.where(key)}: each limit needs a value")
        found: dict[str, Any] = {}
        for name, value in texts.items():
            what = self.where(f"{key}.{name}")
            if name == "memory" and value.endswith("%"):  # more than all of it is allowed
                found["memory_scale"] = parse_quantity(value, {"%": 0.01}, what)
            elif name == "memory":
                found["memory_bytes"] = parse_bytes(value, what)
            elif name == "macs" and (share := parse_percent(value, what)) is not None:
                found["macs_share"] = share
            elif name == "macs":
                found["macs"] = parse_macs(value, what)
            elif name == "latency":
                found["latency_s"] = parse_seconds(value, what)
            elif name == "energy":
                found["energy_j"] = parse_joules(value, what)
            else:
                found["accounting"] = self.one_of(value, f"{key}.{name}", ACCOUNTINGS)
        label = " ".join(f"{name} {texts[name]}" for name in names if name in texts)
        return BudgetChoice(label, **found)

    def tasks(self, given: object, key: str) -> tuple[TaskChoice, ...]:
        names = ("data", "split", "seed", "seeds", "ways", "shots")
        if isinstance(given, str):
            given = {"data": given}
        entry = _mapping(given, names, self.where(key))
        data = entry.get("data", "digits")
        path = None if data == "digits" else self.path(data, f"{key}.data")
        split = entry.get("split")
        if "seed" in entry and "seeds" in entry:
            raise InputError(f"{self.where(key)}: give seed or seeds, not both")
        seeds = entry.get("seeds", [entry.get("seed", 0)])
        if not isinstance(seeds, list) or not seeds:
            raise InputError(f"{self.where(f'{key}.seeds')}: a list of at least one is needed")
        task = TaskChoice(
            data=path,
            split=None if split is None else self.text(split, f"{key}.split"),
            ways=self.number(entry["ways"], f"{key}.ways", 1, 10_000) if "ways" in entry else None,
            shots=self.number(entry.get("shots", DEFAULT_SHOTS), f"{key}.shots", 1, 10_000),
        )
        if path is not None:
            try:
                open_images(path, task.split)
            except InputError as error:
                raise InputError(f"{self.where(f'{key}.data')}: {error}") from error
        return tuple(
            replace(task, seed=self.number(seed, f"{key}.seeds[{i}]", 0, LARGEST_SEED))
            for i, seed in enumerate(seeds)
        )

    def settings(self, given: object) -> Settings:
        names = (
            "criterion", "loss", "axis", "inspect", "bias", "batch", "optimizer", "resolution",
            "time-limit", "accuracy",
        )  # fmt: skip
        entry = _mapping(given, names, self.where("settings"))
        default, found = Settings(), dict[str, Any]()
        for name, value in entry.items():
            key = f"settings.{name}"
            match name:
                case "criterion":
                    found[name] = self.one_of(value, key, tuple(CRITERIA))
                case "loss":
                    found[name] = self.one_of(value, key, tuple(LOSSES))
                case "axis":
                    found[name] = self.one_of(value, key, tuple(SCORED_AXES))
                case "optimizer":
                    found[name] = self.one_of(value, key, tuple(OPTIMIZERS))
                case "inspect":
                    found[name] = None if value == "all" else self.number(value, key, 1, 10_000)
                case "bias" | "accuracy":
                    if not isinstance(value, bool):
                        raise InputError(f"{self.where(key)}: is {value!r}; give true or false")
                    found[name] = value
                case "time-limit":
                    found["time_limit_s"] = parse_seconds(str(value), self.where(key))
                case _:
                    found[name] = self.number(value, key, 1, 10_000)
        return replace(default, **found)
