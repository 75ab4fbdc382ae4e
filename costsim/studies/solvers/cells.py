"""The cells of a comparison: one solver on one problem each, and what an answer depends on."""

from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from costsim import __version__
from costsim.device import DeviceSpec, load_device, shipped_devices
from costsim.ir.recipe import Loss
from costsim.ir.step import Optimizer, TrainingStep
from costsim.planning import DEFAULT_SHOTS, BudgetRequest, PlanRequest
from costsim.problem.axes import SCORED_AXES
from costsim.problem.importance import DEFAULT_INSPECTED_LAYERS
from costsim.problem.solution import Solver
from costsim.solvers import COMPARED
from costsim.studies.engine import (
    Cell,
    ModelChoice,
    Study,
    dated,
    device_digest,
    digest,
    images_digest,
    images_name,
    model_digest,
    unchanged_device,
)


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
        return images_name(self.data, self.split)


NAMED = ("layers", "exclude")
"""Settings that are part of a digest only where they are given: older stores know of none."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What is the same in all cells of a study."""

    criterion: str = "fisher"
    loss: Loss = "prototype"
    axis: str = "output"
    inspect: int | None = DEFAULT_INSPECTED_LAYERS
    layers: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    bias: bool = False
    batch: int = 1
    optimizer: Optimizer = "sgd"
    resolution: int | None = None
    time_limit_s: float | None = None
    accuracy: bool = False
    """Whether each plan is trained on its task, and tested on other samples of it."""


@dataclass(frozen=True)
class SolverCell(Cell):
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
        names = ["criterion", "loss", "axis", "inspect", "resolution"]
        names += [name for name in NAMED if settings[name]]
        return {
            "model": self.model.model,
            "weights": self.model_digest,
            "data": self.data_digest,
            "task": [self.task.split, self.task.seed, self.task.ways, self.task.shots],
            "settings": {name: settings[name] for name in names}
            | {"criterion": dated(self.settings.criterion)},
            "version": __version__,
        }

    @cached_property
    def shared_key(self) -> str:
        """Digest of what the channel scores depend on."""
        return digest(self._scored)

    @property
    def group(self) -> tuple[str, str]:
        """What cells have in common that share a priced and scored problem."""
        return self.shared_key, self.device_digest

    @cached_property
    def problem_key(self) -> str:
        """Digest of what the problem depends on: cells that differ in the solver share it."""
        budget = {k: v for k, v in asdict(self.budget).items() if k != "label"}
        aside = ("time_limit_s", "accuracy")
        step = {
            key: value
            for key, value in asdict(self.settings).items()
            if key not in aside and (value or key not in NAMED)
        }
        return digest(
            {**self._scored, "device": self.device_digest, "budget": budget, "settings": step}
        )

    @cached_property
    def key(self) -> str:
        """Digest of what the answer depends on."""
        limit = self.settings.time_limit_s
        asked = {"problem": self.problem_key, "solver": dated(self.solver), "time_limit": limit}
        return digest(asked | ({"accuracy": True} if self.settings.accuracy else {}))

    @property
    def head(self) -> dict[str, Any]:
        """What the row says of the cell."""
        settings = {k: v for k, v in asdict(self.settings).items() if v is not None}
        told = " ".join(f"{name}={value}" for name, value in settings.items())
        if self.settings.inspect is None:
            told += " inspect=all"
        return {
            "key": self.key,
            "problem": self.problem_key,
            "solver": self.solver,
            "model": self.model.label,
            "device": self.device,
            "budget": self.budget.label,
            "domain": self.task.domain,
            "seed": self.task.seed,
            "settings": told,
        }

    def request(self, solver: Solver) -> PlanRequest:
        """What `costsim plan` would be asked."""
        device = unchanged_device(self.device, self.device_digest)
        settings = self.settings
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
            layers=settings.layers,
            exclude=settings.exclude,
            with_bias=settings.bias,
            step=TrainingStep(
                batch=settings.batch,
                optimizer=settings.optimizer,
                bits=device.bits.usual,
            ),
            budget=self.budget.on(device),
            seed=self.task.seed,
            needs_kernels=False,  # solvers are compared, nothing is exported
        )


@dataclass(frozen=True)
class SolverStudy(Study[SolverCell]):
    """Everything to compare; `cells` is the product of all lists."""

    solvers: tuple[str, ...] = COMPARED
    models: tuple[ModelChoice, ...] = (ModelChoice("mcunet-5fps"),)
    devices: tuple[str, ...] = field(default_factory=lambda: tuple(shipped_devices()))
    budgets: tuple[BudgetChoice, ...] = (BudgetChoice("recommended"),)
    tasks: tuple[TaskChoice, ...] = (TaskChoice(),)
    settings: Settings = field(default_factory=Settings)

    def cells(self) -> tuple[SolverCell, ...]:
        """All cells, those of one model, task and device together, each once.

        Raises `InputError` for a device or a file that cannot be read.
        """
        devices = {name: load_device(name) for name in self.devices}
        told = {name: device_digest(device) for name, device in devices.items()}
        found: dict[str, SolverCell] = {}
        for model in self.models:
            weights = model_digest(model.model, model.weights)
            for task in self.tasks:
                data = images_digest(task.data)
                for device in self.devices:
                    for budget in self.budgets:
                        for solver in self.solvers:
                            cell = SolverCell(
                                solver, model, device, budget, task, self.settings,
                                weights, told[device], data,
                            )  # fmt: skip
                            found.setdefault(cell.key, cell)
        return tuple(found.values())
