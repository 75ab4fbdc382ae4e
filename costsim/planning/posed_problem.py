"""From a model, a device and a few samples to the problem that a solver is asked."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from costsim.base.errors import InputError, note
from costsim.base.progress import Progress, silent
from costsim.base.trust import name_from_now_on
from costsim.base.units import format_bytes
from costsim.data import (
    ImageSource,
    are_images,
    draw_task,
    given_source,
    resolution_and_channels,
)
from costsim.ir.graph import LayerGraph
from costsim.ir.plan import UpdatePlan
from costsim.ir.program import Category, compile_program, even_cuts
from costsim.ir.step import TrainingStep
from costsim.models.loading import LoadedModel, load_given, load_model
from costsim.planning.request import PlanRequest
from costsim.pricing.micro_batch import GraphAt
from costsim.problem.importance import Importance, inspected_layers
from costsim.problem.named_layers import NamedLayers
from costsim.problem.problem import Problem
from costsim.run.criteria import make_criterion
from costsim.solvers import SOLVERS
from costsim.solving.planfile import TaskRecord

if TYPE_CHECKING:
    from torch import Tensor

SCORING_BATCH = 10
"""Samples in one pass of scoring, where the graph can be made for that many at no cost."""


@dataclass(frozen=True)
class Scored:
    """Channel scores, and the layers and how many samples they are of; the task drawn."""

    importance: Importance
    layers: tuple[str, ...]
    samples: int
    task: TaskRecord


@dataclass(frozen=True)
class Prepared:
    """A model with its scores, and what is asked of it: all that a solver's work needs."""

    request: PlanRequest
    loaded: LoadedModel
    tensors: "Mapping[str, Tensor]"
    scored: Scored
    problem: Problem


def prepare(
    request: PlanRequest, progress: Progress | None = None, scored: Scored | None = None
) -> Prepared:
    """Load the model, score its channels (unless they were `scored` before), and pose the problem.

    Raises `InputError` for anything in the request that cannot be used.
    """
    report = progress or silent
    request.device.target(request.target)  # one that the device lacks is an error before any work
    check(request)
    source = None
    if scored is None:
        source = given_source(request.data, request.split, progress)
    report("loading the model", 0, 0)
    loaded = load(request)
    report("tracing the model", 0, 0)
    graph, scoring_graph, tensors = _graphs(request, loaded)
    if request.needs_kernels and request.device.is_microcontroller:
        from costsim.c.emission.support import check_kernels  # of no other device's business

        try:
            check_kernels(graph, request.step_bits)
        except InputError as error:
            raise InputError(
                f"{loaded.name} on {request.device.name}, a microcontroller: {error}"
            ) from error
    _check_flash(request, graph)
    if source is not None and not are_images(source) and request.planned_recipe.augment:
        note(f"{source.description}: no images, of which no changed copies are made (--no-augment)")
        request = replace(request, recipe=replace(request.planned_recipe, augment=False))
    if scored is None:
        assert source is not None
        scored = _score(request, source, loaded, scoring_graph, tensors, progress)
    step = request.step_for(scored.task.samples)
    step = replace(step, recompute=even_cuts(graph, request.segments))
    problem = pose(request, graph, step, scored)
    return Prepared(request, loaded, tensors, scored, problem)


def load(request: PlanRequest) -> LoadedModel:
    """The model that is asked about, its batch norms folded where the device wants that."""
    output = request.output
    if isinstance(request.model, str):
        spec = request.model if output is None else f"{request.model}[{output}]"
        name_from_now_on(spec)
        make: Callable[..., LoadedModel] = partial(load_model, spec)
    else:
        make = partial(load_given, request.model, output=output)
    return make(
        weights=request.weights,
        seed=request.seed,
        resolution=request.resolution,
        batch=request.samples_a_pass,
        fold=request.folds_batch_norm,
    )


def _check_flash(request: PlanRequest, graph: LayerGraph) -> None:
    """Raise `InputError` where no plan makes room in flash for the network's weights."""
    device = request.device
    if not device.is_microcontroller or device.placement.frozen_weights != "flash":
        return
    bits = request.step_bits
    program = compile_program(graph, UpdatePlan(), TrainingStep(graph.batch, bits=bits))
    needed = program.bytes_of(Category.FROZEN_WEIGHTS)
    if needed > device.flash_bytes:
        raise InputError(
            f"the weights take {format_bytes(needed)} of flash at {bits.weights} bits, and "
            f"{device.name} has {format_bytes(device.flash_bytes)}: fewer --bits or a smaller "
            "network would do"
        )


def pose(request: PlanRequest, graph: LayerGraph, step: TrainingStep, scored: Scored) -> Problem:
    """What a solver is asked of steps of this kind."""
    target = request.device.target(request.target)
    return Problem(
        graph,
        step,
        scored.importance,
        request.budget.resolve(request.device, graph, step),
        with_bias=request.with_bias,
        timer=target.at(step.bits),
        compute_w=target.power.compute.value,
        seed=request.seed,
    )


def _score(
    request: PlanRequest,
    source: ImageSource,
    loaded: LoadedModel,
    graph: LayerGraph,
    tensors: "Mapping[str, Tensor]",
    progress: Progress | None,
) -> Scored:
    drawing = request.drawing.settled(source)
    resolution, channels = resolution_and_channels(loaded.example_input.shape[1:])
    task = draw_task(
        source,
        drawing,
        seed=request.seed,
        resolution=resolution,
        channels=channels,
        progress=progress,
        with_queries=False,
    )
    criterion = make_criterion(request.criterion)
    named_by = request.criterion if isinstance(request.criterion, str) else criterion.name
    (progress or silent)(f"scoring channels: {named_by}", 0, 0)
    named = NamedLayers(request.layers, request.exclude)
    layers = inspected_layers(graph, request.inspect, axes=request.axes, named=named)
    importance = criterion.score(
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
    meant = tuple(entry for entry in importance.channels if named.means(entry.layer))
    data = str(request.data) if isinstance(request.data, str | Path) else None
    drawn = TaskRecord.of(task, drawing, data, request.split)
    importance = replace(importance, criterion=named_by, channels=meant)
    return Scored(importance, layers, len(task.labels), drawn)


def parameters_digest(tensors: "Mapping[str, Tensor]") -> str:
    """SHA-256 over the names, shapes, types and bytes of all parameters.

    Constants that tracing computed (`.constant.<digest>`) are none: they may depend on the batch.
    """
    digest = hashlib.sha256()
    for name in sorted(name for name in tensors if not name.startswith(".")):
        array = tensors[name].detach().cpu().contiguous().numpy()
        digest.update(f"{name} {array.shape} {array.dtype.str}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def check(request: PlanRequest) -> None:
    """Raise `InputError` for a request that contradicts itself or its device."""
    make_criterion(request.criterion)
    if request.with_bias and "bias" in request.axes:
        raise InputError(
            "biases either come with the chosen layers (--bias) or are chosen themselves "
            "(--axis output+bias); give one of the two"
        )
    if (request.layers or request.exclude) and request.solver.name in SOLVERS.tagged(
        "whole network"
    ):
        raise InputError(
            f"layers and exclude name those that are scored, and the solver {request.solver.name} "
            "looks at no score; leave one of the two out"
        )
    supported = request.device.bits
    for name in ("weights", "activations", "gradients"):
        bits, allowed = getattr(request.step_bits, name), getattr(supported, name)
        if bits not in allowed:
            raise InputError(
                f"{name} of {bits} bits; {request.device.name} has kernels for "
                f"{', '.join(map(str, allowed))}"
            )


def _graphs(
    request: PlanRequest, loaded: LoadedModel
) -> "tuple[LayerGraph, LayerGraph, Mapping[str, Tensor]]":
    """The graph to price at the samples of a pass, one to score with, and the model's tensors."""
    from costsim.models.networks.build import Network
    from costsim.models.networks.graph import architecture_graph
    from costsim.models.tracing import capture

    passed = request.samples_a_pass
    if isinstance(loaded.module, Network):
        side = int(loaded.example_input.shape[-1])
        graphs = [
            architecture_graph(
                loaded.module.architecture, batch=batch, resolution=side
            ).with_frozen(loaded.module.frozen)
            for batch in (passed, SCORING_BATCH)
        ]
        return graphs[0], graphs[1], dict(loaded.module.state_dict())
    traced = capture(loaded.module, loaded.example_input)
    if passed == 1 or loaded.fixed_batch:
        return traced.graph, traced.graph, traced.tensors
    alone = capture(loaded.module, loaded.example_input[:1])
    return traced.graph, alone.graph, alone.tensors


def other_graphs(prepared: Prepared) -> GraphAt | None:
    """The network at any batch; None where it has but one."""
    from costsim.models.networks.build import Network
    from costsim.models.networks.graph import architecture_graph
    from costsim.models.tracing import capture

    module, example = prepared.loaded.module, prepared.loaded.example_input
    if isinstance(module, Network):
        architecture, frozen, side = module.architecture, module.frozen, int(example.shape[-1])
        return lambda batch: architecture_graph(
            architecture, batch=batch, resolution=side
        ).with_frozen(frozen)
    if prepared.loaded.fixed_batch:
        return None
    one = example[:1]  # the example has as many as a pass of the plan, which may be fewer
    return lambda batch: capture(module, one.repeat(batch, *(1,) * (one.ndim - 1))).graph
