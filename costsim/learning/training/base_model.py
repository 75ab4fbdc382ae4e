"""The model that a plan or a patch is for, checked to be that model."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from costsim.base.errors import InputError, shown
from costsim.base.files import file_sha256
from costsim.base.trust import check_named
from costsim.base.units import format_bytes
from costsim.ir.cuts import cuts, updated_layers
from costsim.ir.graph import LayerGraph
from costsim.ir.program import TrainingProgram, compile_program
from costsim.learning.training.backbone import Backbone
from costsim.learning.training.network import OneBatch, Trainable
from costsim.models.folding import Folded
from costsim.models.inputs import IMAGE_CHANNELS
from costsim.models.loading import load_model
from costsim.models.networks.build import Network
from costsim.models.networks.graph import architecture_graph
from costsim.models.networks.shipped import RANDOM
from costsim.models.tracing import capture
from costsim.planning import parameters_digest
from costsim.pricing.cost import mac_cost
from costsim.run.native import Backend
from costsim.solving.planfile import (
    WEIGHTS,
    ModelRecord,
    PlanFile,
    candidates,
    found_again,
    model_found_again,
)

LARGEST_STEP_BYTES = 2**32
"""Of the images of one step."""

PREDICTION_BATCH = 16
"""Samples that the module sees at a time when nothing is learnt."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A model with its layer graph; `tensors` are the module's own, by the graph's names.

    `weights` is the file that they were read from, None where none was given; `folded` what was
    done to its batch norms, None if nothing.
    """

    name: str
    module: nn.Module
    graph: LayerGraph
    tensors: Mapping[str, Tensor]
    fixed_batch: bool
    weights: Path | None = None
    folded: Folded | None = None

    @cached_property
    def input_shape(self) -> tuple[int, ...]:
        """`[C, H, W]` of an image."""
        return self.graph[self.graph.input].shape[1:]

    def trainable(self, backend: Backend = "torch") -> Trainable:
        """The same tensors as what the loop trains: at any batch, but for an exported program."""
        if self.fixed_batch:
            return OneBatch(self.graph, self.tensors, backend)
        return Backbone(self.module, self.input_shape, name=self.name, backend=backend)

    def digest(self) -> str:
        """SHA-256 of the parameters as they are now."""
        return parameters_digest(self.tensors)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Outputs `[N, ...]` of the ordinary module for images `[N, C, H, W]`.

        Always as many at a time, so that a sample's output does not depend on who is beside it.
        """
        size = self.graph.batch if self.fixed_batch else PREDICTION_BATCH
        outputs = []
        for part in torch.split(images, size):
            filling = part[:1].expand(size - len(part), *part.shape[1:])
            outputs.append(self.module(torch.cat([part, filling]))[: len(part)])
        return torch.cat(outputs)


def load_subject(
    spec: str,
    *,
    weights: Path | None,
    resolution: int,
    seed: int,
    batch: int = 1,
    fold: bool = False,
) -> Subject:
    """The model that `spec` names, as `costsim plan` loads it; see `models.loading.load_model`."""
    loaded = load_model(
        spec, weights=weights, seed=seed, resolution=resolution, batch=batch, fold=fold
    )
    module = loaded.module
    if isinstance(module, Network):
        graph = architecture_graph(module.architecture, batch=batch, resolution=resolution)
        graph = graph.with_frozen(module.frozen)
        return Subject(loaded.name, module, graph, dict(module.state_dict()), False, weights)
    traced = capture(module, loaded.example_input)
    return Subject(
        loaded.name,
        module,
        traced.graph,
        traced.tensors,
        loaded.fixed_batch,
        weights,
        loaded.folded,
    )


def weights_found_again(model: ModelRecord, named_in: str) -> Path | None:
    """The weights file of a plan: of those that are there the one with the plan's own bytes, else
    the first, which is not the same file any more; None where no file was given.

    Raises `InputError` where none is there.
    """
    if model.weights is None or model.weights == str(RANDOM):
        return None if model.weights is None else RANDOM
    for place in candidates(model.weights, named_in):
        if model.weights_sha256 is not None and file_sha256(place) == model.weights_sha256:
            return place
    return found_again(model.weights, named_in, "model.weights", WEIGHTS)


def load_named(file: PlanFile, source: str = "plan", weights: Path | None = None) -> Subject:
    """The model that a plan names, with `weights`, else with the plan's, found again.

    Raises `InputError`, naming `source`, for one that is not there or too large to be run, and
    for a recipe that cuts it where that cannot be.
    """
    check_input(file, source)
    subject = load_subject(
        model_found_again(check_named(file.model.spec, source), source),
        weights=weights_found_again(file.model, source) if weights is None else weights,
        resolution=file.model.resolution,
        seed=file.seed,
        batch=file.step.samples_a_pass,
        fold=file.model.folds_batch_norm,
    )
    _check_cut(file, source, subject.graph)
    return subject


def load_subject_of(file: PlanFile, source: str = "plan", weights: Path | None = None) -> Subject:
    """The model that a plan names, checked to be of its layers and channels; see `load_named`.

    Raises `InputError`, naming `source`, for a plan without an answer too.
    """
    if file.predicted is None:
        raise InputError(f"{source}: holds no plan: {file.solver.sentence}")
    subject = load_named(file, source, weights)
    try:
        file.plan.check(subject.graph)
    except InputError as error:
        raise InputError(f"{source}: layers: {error}") from error
    return subject


def load_unfolded(file: PlanFile, source: str, weights: Path | None) -> Subject:
    """The model that a plan names as it was before batch norms were folded, batch 1."""
    return load_subject(
        model_found_again(check_named(file.model.spec, source), source),
        weights=weights,
        resolution=file.model.resolution,
        seed=file.seed,
    )


def _check_cut(file: PlanFile, source: str, graph: LayerGraph) -> None:
    """Raise `InputError` where the recipe keeps what the plan's own updates change."""
    cut = file.recipe.cut
    if cut is None:
        return
    if cut not in cuts(graph):
        raise InputError(
            f"{source}: recipe.cut: {shown(cut)} is no call of {file.model.name} through which "
            "everything passes"
        )
    places = {call.name: place for place, call in enumerate(graph.calls)}
    updated = updated_layers(file.plan)
    for call in graph.calls[: places[cut] + 1]:
        if call.layer in updated:
            raise InputError(
                f"{source}: recipe.cut: {shown(cut)} is kept of every image, but layers has "
                f"{call.layer}, before it, trained"
            )


def check_input(file: PlanFile, source: str) -> None:
    """Raise `InputError` for a step that no machine has room to be given."""
    size = file.step.batch * max(IMAGE_CHANNELS) * file.model.resolution**2 * 4
    if size > LARGEST_STEP_BYTES:
        raise InputError(
            f"{source}: step.batch is {file.step.batch}, model.resolution {file.model.resolution}: "
            f"the images take {format_bytes(size)}; at most {format_bytes(LARGEST_STEP_BYTES)} "
            "can be run"
        )


def load_planned(
    file: PlanFile, source: str = "plan", weights: Path | None = None
) -> tuple[Subject, TrainingProgram]:
    """The model that a plan was made for, and the plan's compiled training step.

    `weights` replaces where the plan says they are, not what they are. Raises `InputError`,
    naming `source`, for a plan without an answer, one whose layers, channels or MACs are not
    those of the model (another model, another input size), and for other parameters.
    """
    subject = load_subject_of(file, source, weights)
    assert file.predicted is not None
    program = compile_program(subject.graph, file.plan, file.step)
    found, planned = mac_cost(program), file.predicted.macs
    size = subject.graph[subject.graph.input].shape
    for name in ("forward", "input_gradient", "weight_gradient"):
        if getattr(found, name) != getattr(planned, name):
            raise InputError(
                f"{source}: predicted.macs.{name} is {getattr(planned, name)}, but "
                f"{getattr(found, name)} for {subject.name} on images of "
                f"{'x'.join(map(str, size[2:]))}: the plan is for another model or input size"
            )
    wanted, digest = file.model.parameters_sha256, subject.digest()
    if wanted not in (None, digest):
        where = "the weights that the model starts with"
        if subject.weights is not None:
            where = str(subject.weights)
        raise InputError(
            f"{source}: model.parameters_sha256 is {wanted[:12] if wanted else ''}..., but {where} "
            f"give {digest[:12]}...; give --weights the file that the plan was made with"
            f"{_which_file(file, subject.weights)}"
        )
    return subject, program


def _which_file(file: PlanFile, weights: Path | None) -> str:
    """By what to tell the file of a plan, where it had one."""
    if file.model.weights is None or file.model.weights_sha256 is None:
        return ""
    found = None if weights is None else file_sha256(weights)
    now = "" if found is None else f", not {found[:12]}..."
    return (
        f" ({Path(file.model.weights).name}, model.weights_sha256 "
        f"{file.model.weights_sha256[:12]}...{now})"
    )
