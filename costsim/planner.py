"""From a model, a device and a few samples to a plan: everything `costsim plan` does.

    model ──► LayerGraph ┐
    data ──► Importance ─┼─► Problem ──solve──► Solution ──► PlanFile
    device ──► Budget ───┘

torch is imported when a plan is made, not with this file.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from costsim.cost import full_backward_macs, selection_seconds
from costsim.criteria import CRITERIA
from costsim.data import ImageSource, Progress, Task, digits, open_images, sample_task
from costsim.device import DeviceSpec, TaskEstimate, estimate_task
from costsim.emission.support import check_kernels, why_not_emitted
from costsim.errors import InputError
from costsim.explain import explain
from costsim.graph import LayerGraph
from costsim.importance import DEFAULT_INSPECTED_LAYERS, Importance, inspected_layers
from costsim.models import LoadedModel, load_model
from costsim.operators import UpdateKind
from costsim.plan import ChannelSubset, UpdatePlan
from costsim.planfile import ModelRecord, PlanFile, plan_file
from costsim.problem import Budget, Problem
from costsim.program import compile_program, even_cuts
from costsim.solution import Solution, Solver
from costsim.solve import solve
from costsim.step import TrainingStep

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT_MODEL = "mcunet-5fps"
DEFAULT_WAYS = 10
DEFAULT_SHOTS = 5
DEFAULT_ITERATIONS = 40
"""Passes over the support set when adapting, as in the paper."""

SCORING_BATCH = 10
"""Samples in one pass of scoring, where the graph can be made for that many at no cost."""


PLANNING_S = 10.0
"""How long the solver may take if none is asked for; then it says how good its plan surely is."""

Number = TypeVar("Number", int, float)


def _first(given: Number | None, otherwise: Number | None) -> Number | None:
    """`given`, which may be 0, or what is taken where nothing is given."""
    return otherwise if given is None else given


@dataclass(frozen=True)
class BudgetRequest:
    """Limits as a person gave them; what is None comes from the device's recommendation.

    MACs are either a number or a share of the full backward pass.
    """

    memory_bytes: int | None = None
    accounting: str | None = None
    macs: int | None = None
    macs_share: float | None = None
    latency_s: float | None = None
    energy_j: float | None = None

    def resolve(self, device: DeviceSpec, graph: LayerGraph, step: TrainingStep) -> Budget:
        """The limits of one step of `graph` on `device`."""
        recommended = device.training_budget
        full = full_backward_macs(graph, step)
        macs = self.macs
        if macs is None:
            share = recommended.macs_share.value if self.macs_share is None else self.macs_share
            macs = int(share * full)
        latency, energy = recommended.latency, recommended.energy
        return Budget(
            memory_bytes=_first(self.memory_bytes, recommended.memory_bytes),
            accounting=self.accounting or recommended.accounting,
            macs=macs,
            latency_s=_first(self.latency_s, latency.value if latency else None),
            energy_j=_first(self.energy_j, energy.value if energy else None),
            working_bytes=device.largest_block_bytes,
        )


def default_solver() -> Solver:
    """The exact solver, with a time limit that a person waits for."""
    from costsim.solvers import make_solver

    solver: Solver = make_solver("exact", time_limit_s=PLANNING_S)
    return solver


@dataclass(frozen=True)
class PlanRequest:
    """What is asked of `make_plan`; the defaults are those of the command line.

    `segments`: into how many the forward pass is cut for recomputation; 1 is none. `explain_with`:
    a solver that proves its answers, if the plan is to be explained. `needs_kernels`: refuse an
    operator without a C kernel on a microcontroller, where nothing else could run it.
    """

    device: DeviceSpec
    solver: Solver = field(default_factory=default_solver)
    target: str | None = None
    model: str = DEFAULT_MODEL
    weights: Path | None = None
    resolution: int | None = None
    data: Path | None = None
    split: str | None = None
    ways: int | None = None
    shots: int = DEFAULT_SHOTS
    criterion: str = "fisher"
    loss: str = "prototype"
    axes: tuple[UpdateKind, ...] = ("output",)
    inspect: int | None = DEFAULT_INSPECTED_LAYERS
    with_bias: bool = False
    step: TrainingStep = field(default_factory=TrainingStep)
    segments: int = 1
    budget: BudgetRequest = field(default_factory=BudgetRequest)
    iterations: int = DEFAULT_ITERATIONS
    seed: int = 0
    explain_with: Solver | None = None
    needs_kernels: bool = True


@dataclass(frozen=True)
class Planned:
    """A plan and what it was made from. `warnings` are sentences for a person."""

    file: PlanFile
    graph: LayerGraph
    importance: Importance
    solution: Solution
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Scored:
    """Channel scores, and the layers and how many samples they are of."""

    importance: Importance
    layers: tuple[str, ...]
    samples: int


@dataclass(frozen=True)
class Prepared:
    """A model with its scores, and what is asked of it: all that a solver's work needs."""

    request: PlanRequest
    loaded: LoadedModel
    tensors: "Mapping[str, Tensor]"
    scored: Scored
    problem: Problem


def make_plan(request: PlanRequest, progress: Progress | None = None) -> Planned:
    """Choose what to update of a model within the budgets, and price it.

    `progress` is called with what is being done, how much of it is done and how much there is.
    Raises `InputError` for anything in the request that cannot be used.
    """
    report = progress or _silent
    prepared = prepare(request, progress)
    report(f"solving: {request.solver.name}", 0, 0)
    solution = solve(prepared.problem, request.solver, device=request.device, target=request.target)
    return conclude(prepared, solution, progress)


def prepare(
    request: PlanRequest, progress: Progress | None = None, scored: Scored | None = None
) -> Prepared:
    """Load the model, score its channels (unless they were `scored` before), and pose the problem.

    Raises `InputError` for anything in the request that cannot be used.
    """
    report = progress or _silent
    target = request.device.target(request.target)
    _check(request)
    source = None
    if scored is None:
        source = (
            digits() if request.data is None else open_images(request.data, request.split, progress)
        )
    report("loading the model", 0, 0)
    loaded = load_model(
        request.model,
        weights=request.weights,
        seed=request.seed,
        resolution=request.resolution,
        batch=request.step.samples_a_pass,
    )
    report("tracing the model", 0, 0)
    graph, scoring_graph, tensors = _graphs(request, loaded)
    if request.needs_kernels and is_microcontroller(request.device):
        try:
            check_kernels(graph, request.step.bits)
        except InputError as error:
            raise InputError(
                f"{loaded.name} on {request.device.name}, a microcontroller: {error}"
            ) from error
    step = replace(request.step, recompute=even_cuts(graph, request.segments))
    if scored is None:
        assert source is not None
        scored = _score(request, source, loaded, scoring_graph, tensors, progress)
    problem = Problem(
        graph,
        step,
        scored.importance,
        request.budget.resolve(request.device, graph, step),
        with_bias=request.with_bias,
        timer=target.at(step.bits),
        compute_w=target.power.compute.value,
        seed=request.seed,
    )
    return Prepared(request, loaded, tensors, scored, problem)


def conclude(prepared: Prepared, solution: Solution, progress: Progress | None = None) -> Planned:
    """The plan file of a solution of what was prepared, and what a person should know of it."""
    request, loaded, problem = prepared.request, prepared.loaded, prepared.problem
    layers, samples = prepared.scored.layers, prepared.scored.samples
    explanation = None
    if request.explain_with is not None:
        explanation = explain(problem, solution, request.explain_with, progress)
    (progress or _silent)("pricing the whole task", 0, 0)
    file = plan_file(
        model=ModelRecord(
            name=loaded.name,
            spec=request.model,
            weights=None if request.weights is None else str(request.weights),
            resolution=int(loaded.example_input.shape[-1]),
            provenance=loaded.provenance,
            parameters_sha256=parameters_digest(prepared.tensors),
        ),
        graph=problem.graph,
        step=problem.step,
        budget=problem.budget,
        solution=solution,
        importance=problem.importance,
        seed=request.seed,
        device=request.device,
        target=request.target,
        task=_task_estimate(request, problem.step, problem.graph, layers, solution, samples),
        explanation=explanation,
    )
    warnings = _warnings(request, loaded, solution, problem)
    return Planned(file, problem.graph, problem.importance, solution, warnings)


def _silent(what: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


def _score(
    request: PlanRequest,
    source: ImageSource,
    loaded: LoadedModel,
    graph: LayerGraph,
    tensors: "Mapping[str, Tensor]",
    progress: Progress | None,
) -> Scored:
    task = _sample(request, source, loaded, progress)
    (progress or _silent)(f"scoring channels: {request.criterion}", 0, 0)
    layers = inspected_layers(graph, request.inspect)
    importance = CRITERIA[request.criterion].score(
        graph,
        tensors,
        task.images,
        task.labels,
        layers=layers,
        axes=request.axes,
        loss=request.loss,
        seed=request.seed,
        progress=progress,
        source=task.description,
    )
    return Scored(importance, layers, len(task.labels))


def parameters_digest(tensors: "Mapping[str, Tensor]") -> str:
    """SHA-256 over the names, shapes, types and bytes of all parameters."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name].detach().cpu().contiguous().numpy()
        digest.update(f"{name} {array.shape} {array.dtype.str}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def is_microcontroller(device: DeviceSpec) -> bool:
    """Whether a device runs C alone: frozen weights stay in the flash that the code is in."""
    return device.placement.frozen_weights == "flash"


def _check(request: PlanRequest) -> None:
    if request.criterion not in CRITERIA:
        raise InputError(f"criterion {request.criterion!r}; known are {', '.join(CRITERIA)}")
    if request.with_bias and "bias" in request.axes:
        raise InputError(
            "biases either come with the chosen layers (--bias) or are chosen themselves "
            "(--axis output+bias); give one of the two"
        )
    supported = request.device.bits
    for name in ("weights", "activations", "gradients"):
        bits, allowed = getattr(request.step.bits, name), getattr(supported, name)
        if bits not in allowed:
            raise InputError(
                f"{name} of {bits} bits; {request.device.name} has kernels for "
                f"{', '.join(map(str, allowed))}"
            )


def _graphs(
    request: PlanRequest, loaded: LoadedModel
) -> "tuple[LayerGraph, LayerGraph, Mapping[str, Tensor]]":
    """The graph to price at the samples of a pass, one to score with, and the model's tensors."""
    from costsim.networks.build import Network
    from costsim.networks.graph import architecture_graph
    from costsim.tracing import capture

    passed = request.step.samples_a_pass
    if isinstance(loaded.module, Network):
        side = int(loaded.example_input.shape[-1])
        graphs = [
            architecture_graph(loaded.module.architecture, batch=batch, resolution=side)
            for batch in (passed, SCORING_BATCH)
        ]
        return graphs[0], graphs[1], dict(loaded.module.state_dict())
    traced = capture(loaded.module, loaded.example_input)
    if passed == 1 or request.model.endswith(".pt2"):
        return traced.graph, traced.graph, traced.tensors
    alone = capture(loaded.module, loaded.example_input[:1])
    return traced.graph, alone.graph, alone.tensors


def _sample(
    request: PlanRequest, source: ImageSource, loaded: LoadedModel, progress: Progress | None
) -> Task:
    ways = request.ways
    if ways is None:
        ways = min(DEFAULT_WAYS, len(source.classes))
    _, channels, height, width = loaded.example_input.shape
    return sample_task(
        source,
        ways=ways,
        shots=request.shots,
        seed=request.seed,
        resolution=(int(height), int(width)),
        channels=int(channels),
        progress=progress,
    )


def _task_estimate(
    request: PlanRequest,
    step: TrainingStep,
    graph: LayerGraph,
    layers: tuple[str, ...],
    solution: Solution,
    samples: int,
) -> TaskEstimate | None:
    """Selection and all iterations on the device; None where a step does not fit or is missing."""
    cost = solution.cost
    if cost is None or cost.on_device is None or cost.on_device.swap_s is None:
        return None
    target = request.device.target(request.target)
    selection = None
    if CRITERIA[request.criterion].uses_samples:
        inspected = UpdatePlan(tuple(ChannelSubset(name, "output", (0,)) for name in layers))
        program = compile_program(graph, inspected, step)
        selection = selection_seconds(program, target, layers, samples)
    return estimate_task(
        target,
        step_s=cost.on_device.latency_s,
        iterations=request.iterations,
        samples=samples,
        batch=step.batch,
        selection_s=selection,
        swap_s=cost.on_device.swap_s,
    )


def _warnings(
    request: PlanRequest, loaded: LoadedModel, solution: Solution, problem: Problem
) -> tuple[str, ...]:
    importance = problem.importance
    found = []
    if "no pretrained weights" in loaded.provenance:
        found.append(
            f"{loaded.name} is {loaded.provenance}: its costs are right, its channel scores are "
            "those of an untrained network; give --weights for a real choice"
        )
    target = request.device.target(request.target)
    if request.step.bits.activations < 32 and target.at(request.step.bits) is target:
        found.append(
            f"time and energy are estimated at the rates of 32-bit kernels; those for "
            f"{request.step.bits.activations}-bit activations may be faster"
        )
    if is_microcontroller(request.device):
        reason = why_not_emitted(request.step)
        if reason is not None:
            found.append(f"this step cannot be exported as C: {reason}")
    if not any(any(entry.scores) for entry in importance.channels):
        found.append(
            f"every {importance.criterion} score is 0: any plan within the budgets is as good as "
            "another"
        )
    if solution.cost is not None:
        memory, room = solution.cost.memory, request.device.largest_block_bytes
        if memory.peak_bytes <= room < memory.arena_bytes:
            found.append(
                f"the arena needs {memory.arena_bytes} B, more than the {room} B that the device "
                "has in one piece, though never that many are live"
            )
    return tuple(found)


__all__ = [
    "BudgetRequest",
    "PlanRequest",
    "Planned",
    "Prepared",
    "Scored",
    "conclude",
    "make_plan",
    "parameters_digest",
    "prepare",
]
