"""What is asked of the planner."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from numpy.typing import ArrayLike

from costsim.base.errors import InputError
from costsim.data import Drawing, EpisodeName, ImageSource
from costsim.device import DeviceSpec
from costsim.ir.graph import LayerGraph
from costsim.ir.operators import UpdateKind
from costsim.ir.recipe import CACHES, CacheIn, Loss, Recipe
from costsim.ir.step import BitWidths, TrainingStep
from costsim.models.networks import NETWORKS
from costsim.pricing.cost import full_backward_macs
from costsim.pricing.swap import room_bytes
from costsim.problem.budget import Budget
from costsim.problem.importance import DEFAULT_INSPECTED_LAYERS
from costsim.problem.solution import Solver
from costsim.problem.task_budget import TaskBudget

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

    from costsim.run.criteria.base import Criterion

DEFAULT_MODEL = "mcunet-5fps"
DEFAULT_ITERATIONS = 40
"""Passes over the support set when adapting, as in the paper."""

FULL_BITS = 32
"""Of a floating-point number; fewer are whole numbers with a scale."""

DEFAULT_SOURCE_TASKS = 10
"""So many tasks of other images a method that needs them chooses by."""

PLANNING_S = 10.0
"""How long the solver may take if none is asked for; then it says how good its plan surely is."""

Number = TypeVar("Number", int, float)


def _first(given: Number | None, otherwise: Number | None) -> Number | None:
    """`given`, which may be 0, or what is taken where nothing is given."""
    return otherwise if given is None else given


@dataclass(frozen=True)
class BudgetRequest:
    """Limits as a person gave them; what is None comes from the device's recommendation.

    A step may swap where the memory that a person allows is more than RAM; see `room_bytes`.

    MACs are either a number or a share of the full backward pass.
    """

    memory_bytes: int | None = None
    accounting: str | None = None
    macs: int | None = None
    macs_share: float | None = None
    latency_s: float | None = None
    energy_j: float | None = None

    @property
    def typed(self) -> frozenset[str]:
        """The limits of `Budget` that a person gave."""
        given = {
            "memory_bytes": self.memory_bytes,
            "macs": self.macs if self.macs_share is None else self.macs_share,
            "latency_s": self.latency_s,
            "energy_j": self.energy_j,
        }
        return frozenset(name for name, value in given.items() if value is not None)

    def resolve(self, device: DeviceSpec, graph: LayerGraph, step: TrainingStep) -> Budget:
        """The limits of one step of `graph` on `device`."""
        recommended = device.training_budget
        full = full_backward_macs(graph, step)
        macs = self.macs
        if macs is None:
            share = recommended.macs_share.value if self.macs_share is None else self.macs_share
            macs = int(share * full)
        latency, energy = recommended.latency, recommended.energy
        latency_s = _first(self.latency_s, latency.value if latency else None)
        energy_j = _first(self.energy_j, energy.value if energy else None)
        timed = latency_s is not None or energy_j is not None
        return Budget(
            memory_bytes=_first(self.memory_bytes, recommended.memory_bytes),
            accounting=self.accounting or recommended.accounting,
            macs=macs,
            latency_s=latency_s,
            energy_j=energy_j,
            working_bytes=room_bytes(device, self.memory_bytes, timed=timed),
        )


def folds_batch_norm(device: DeviceSpec, bits: BitWidths) -> bool:
    """Whether batch norms are taken into the weights: microcontrollers and narrow widths have no
    operator for them."""
    return device.is_microcontroller or min(bits.weights, bits.activations) < FULL_BITS


def default_solver() -> Solver:
    """The exact solver, with a limit of processor time that a person waits for."""
    from costsim.solvers import make_solver

    solver: Solver = make_solver("exact", time_limit_s=PLANNING_S, clock="processor")
    return solver


def usual_recipe(device: DeviceSpec) -> Recipe:
    """How a task is adapted to where nobody says it.

    By Adam over all images of an iteration, one at a time; on a microcontroller by a step of SGD
    for each image, for which there are kernels of every width, and nothing is kept between steps.
    """
    if device.is_microcontroller:
        return Recipe(optimizer="sgd", batch=1)
    return Recipe()


Samples: TypeAlias = ImageSource | tuple[ArrayLike, ArrayLike]
"""What a program may give as data: a source, or samples `[N, ...]` and labels `[N]`."""


@dataclass(frozen=True)
class PlanRequest:
    """What is asked of `make_plan`; the defaults are those of the command line.

    `step`: one optimizer step; None is that of the `recipe`, at `bits` an element (None: what is
    usual on the device). `recipe` None is what is usual on the device, `usual_recipe`.

    `model` is what a person types, or a module or an exported program itself, of whose outputs
    `output` names the one that is meant, see `costsim.models.outputs`.

    `ways` to `tracks` say which task is drawn from the data; see `costsim.data.Drawing`.

    `segments`: into how many the forward pass is cut for recomputation; 1 is none. `explain_with`:
    a solver that proves its answers, if the plan is to be explained. `needs_kernels`: refuse an
    operator without a C kernel on a microcontroller, where nothing else could run it. `layers` and
    `exclude`: patterns of the names of layers that alone, or not, are inspected. `recipe` says how
    the task is adapted to; where in the network it is cut, and where what comes before is kept, is
    chosen out of `caches`. `task_budget` limits the whole adaptation; where it leaves less to train
    the recipe is made sparing, within bounds (`Freedom`), but for its fields in `pinned`. With
    `free_passes` samples a pass and segments are chosen too, but for those in `pinned`
    (`costsim.planning.passes`).
    """

    device: DeviceSpec
    solver: Solver = field(default_factory=default_solver)
    target: str | None = None
    model: "str | nn.Module | ExportedProgram" = DEFAULT_MODEL
    output: str | None = None
    weights: Path | None = None
    resolution: int | None = None
    data: "Path | str | Samples | None" = None
    split: str | None = None
    ways: int | None = None
    shots: int | None = None
    queries: int | None = None
    episode: EpisodeName = "fixed"
    tracks: bool = True
    criterion: "str | Criterion" = "fisher"
    loss: Loss = "prototype"
    axes: tuple[UpdateKind, ...] = ("output",)
    inspect: int | None = DEFAULT_INSPECTED_LAYERS
    layers: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    with_bias: bool = False
    step: TrainingStep | None = None
    bits: BitWidths | None = None
    segments: int = 1
    budget: BudgetRequest = field(default_factory=BudgetRequest)
    recipe: Recipe | None = None
    caches: tuple[CacheIn, ...] = CACHES
    task_budget: TaskBudget = field(default_factory=TaskBudget)
    pinned: frozenset[str] = frozenset()
    free_passes: bool = False
    seed: int = 0
    explain_with: Solver | None = None
    needs_kernels: bool = True

    @property
    def built_in(self) -> bool:
        """Whether the model is one of costsim's own."""
        return isinstance(self.model, str) and self.model in NETWORKS

    @property
    def drawing(self) -> Drawing:
        """Which task is drawn from the data."""
        return Drawing(self.ways, self.shots, self.queries, self.episode, self.tracks)

    @property
    def folds_batch_norm(self) -> bool:
        """See the function of this name."""
        return folds_batch_norm(self.device, self.step_bits)

    @property
    def planned_recipe(self) -> Recipe:
        """The recipe, by default what is usual on the device."""
        return self.recipe or usual_recipe(self.device)

    @property
    def step_bits(self) -> BitWidths:
        """Bits an element, by default those usual on the device."""
        if self.step is not None:
            return self.step.bits
        return self.bits or self.device.bits.usual

    @property
    def samples_a_pass(self) -> int:
        """How many samples go through the network at a time."""
        return self.planned_recipe.micro_batch if self.step is None else self.step.samples_a_pass

    def step_for(self, samples: int) -> TrainingStep:
        """One optimizer step on a task of so many samples."""
        if self.step is not None:
            return self.step
        recipe, passed = self.planned_recipe, self.samples_a_pass
        batch = recipe.batch or -(-recipe.images_a_step(samples) // passed) * passed
        return TrainingStep(
            batch=batch,
            micro_batch=None if passed == batch else passed,
            optimizer=recipe.optimizer,
            bits=self.step_bits,
        )

    def check_of_a_step(self, what: str) -> None:
        """Raise `InputError` where more is asked of what looks at steps as they are given alone."""
        if self.free_passes:
            raise InputError(f"{what}: looks at passes as they are given; leave --free-passes out")
        if self.task_budget:
            raise InputError(
                f"{what}: looks at budgets of a step alone; leave those of the task out "
                "(--task-time, --task-energy, --task-macs, --storage)"
            )

    def with_batch(self, batch: int) -> "PlanRequest":
        """The same for steps over so many samples, in one pass where no other size is given."""
        step = self.step or TrainingStep(
            optimizer=self.planned_recipe.optimizer, bits=self.step_bits
        )
        return replace(self, step=replace(step, batch=batch))
