"""Validating a plan: the model loaded, the step run on real images, everything compared."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from costsim.base.errors import InputError
from costsim.base.progress import Progress, silent
from costsim.data import digits, open_source, resolution_and_channels, sample_task
from costsim.hardware.meters.measure import measure
from costsim.hardware.meters.scratch import ScratchTable, table_path
from costsim.hardware.results.comparison import NOT_JUDGED, PredictedTotals, compare, priced_totals
from costsim.hardware.results.machine import describe_machine, describe_versions
from costsim.hardware.results.record import Measurement, Validation
from costsim.ir.program import compile_program
from costsim.ir.step import BitWidths
from costsim.learning.training.base_model import Subject, load_named
from costsim.planning import DEFAULT_WAYS
from costsim.run.execution.executor import Executor
from costsim.solving.planfile import PlanFile, data_found_again

IMAGE_SIZES = 3
"""Of an image: channels, height and width."""

LEARNING_RATE = 1e-4
"""Small: the step is measured, nothing is to be learnt."""


@dataclass(frozen=True)
class ValidationRequest:
    """What is asked of `validate_plan`; `source` names the plan in errors."""

    plan: PlanFile
    source: str = "plan"
    weights: Path | None = None
    data: Path | None = None
    split: str | None = None
    steps: int = 10
    threads: int | None = None


_TYPES = MappingProxyType({16: torch.bfloat16, 32: torch.float32, 64: torch.float64})


def classification_loss(output: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy over whatever the model returns for a sample, as if it were logits."""
    flat = output.flatten(1)
    return F.cross_entropy(flat, labels % flat.shape[1])


def validate_plan(
    request: ValidationRequest, progress: Progress | None = None
) -> tuple[Measurement, Validation]:
    """Run the training step that a plan asks for and compare it with the plan's predictions.

    Raises `InputError` for a plan without an answer and for a model or data that cannot be used.
    """
    report = progress or silent
    plan = request.plan
    if plan.predicted is None:
        raise InputError(f"{request.source}: holds no plan: {plan.solver.sentence}")
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    report("loading the model", 0, 0)
    subject, notes = load_request(request)
    dtype = run_type(plan.step.bits)
    step = plan.step if dtype is not None else replace(plan.step, bits=BitWidths())
    dtype = dtype or torch.float32
    try:
        program = compile_program(subject.graph, plan.plan, step)
    except InputError as error:
        raise InputError(f"{request.source}: layers: {error}") from error
    executor = Executor(
        program,
        in_type(subject.tensors, dtype),
        learning_rate=LEARNING_RATE,
        loss=classification_loss,
    )
    feed = PlanFeed(request, subject, progress, dtype)
    table = ScratchTable.open(
        table_path(describe_machine(torch.get_num_threads()), describe_versions())
    )
    measured = measure(
        executor,
        feed,
        model=plan.model.name,
        steps=request.steps,
        scratch=table,
        progress=progress,
    )
    totals = priced_totals(program, measured.scratch_bytes)
    if plan.step.bits == step.bits:
        totals = _promised(plan, totals)
    else:
        notes.append(
            f"the plan is for {widths(plan.step.bits)}; PyTorch runs it in 32 bits, so the "
            "same step was priced again for 32 bits and the MACs alone are the plan file's"
        )
        totals = replace(totals, macs=_promised(plan, totals).macs)
    device = None if plan.device is None else plan.device.title
    if device is not None and totals.step_s is not None:
        notes.append(
            f"seconds are predicted for {device} and measured on {measured.measurement.machine.cpu}"
            f": {NOT_JUDGED}"
        )
    return measured.measurement, compare(
        program, totals, measured.measurement, device=device, notes=tuple(notes)
    )


def run_type(bits: BitWidths) -> torch.dtype | None:
    """The type PyTorch runs a step of these bit widths in: none if they differ or are 8."""
    widths = {bits.weights, bits.activations, bits.gradients, bits.optimizer}
    return _TYPES.get(widths.pop()) if len(widths) == 1 else None


def in_type(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of a model, those of floating point in `dtype`."""
    return {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }


def widths(bits: BitWidths) -> str:
    """Bit widths for a person."""
    return ", ".join(
        f"{getattr(bits, name)}-bit {name}"
        for name in ("weights", "activations", "gradients", "optimizer")
    )


def _promised(plan: PlanFile, priced: PredictedTotals) -> PredictedTotals:
    """What the plan file says; the scratch comes on top of its own peak."""
    assert plan.predicted is not None
    memory, macs = plan.predicted.memory, plan.predicted.macs
    latency = plan.predicted.latency_s
    return replace(
        priced,
        kept_bytes=memory.kept_bytes,
        gradient_bytes=memory.gradient_bytes,
        optimizer_bytes=memory.optimizer_bytes,
        updated_weight_bytes=memory.updated_weight_bytes,
        peak_bytes=memory.peak_bytes,
        process_peak_bytes=priced.process_peak_bytes + memory.peak_bytes - priced.peak_bytes,
        macs={name: getattr(macs, name) for name in priced.macs},
        step_s=None if latency is None else latency.step,
    )


def load_request(request: ValidationRequest) -> tuple[Subject, list[str]]:
    """The model of a plan, and a note if its weights are others now."""
    model = request.plan.model
    subject = load_named(request.plan, request.source, request.weights)
    same = model.parameters_sha256 in (None, subject.digest())
    notes = [] if same else ["the weights are not those the plan was made with (costs are alike)"]
    return subject, notes


class PlanFeed:
    """Images of a task, over and over, a copy for each pass."""

    def __init__(
        self,
        request: ValidationRequest,
        subject: Subject,
        progress: Progress | None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        data, planned = request.data, request.plan.task.data
        if data is None and planned is not None and len(subject.input_shape) != IMAGE_SIZES:
            data = data_found_again(planned, request.source)  # no digits stand in for those
        source = digits() if data is None else open_source(data, request.split, progress)
        resolution, channels = resolution_and_channels(subject.input_shape)
        task = sample_task(
            source,
            ways=min(DEFAULT_WAYS, len(source.classes)),
            shots=1,
            seed=request.plan.seed,
            resolution=resolution,
            channels=channels,
            progress=progress,
        )
        self.samples = request.plan.step.samples_a_pass
        self.images, self.labels = torch.tensor(task.images, dtype=dtype), torch.tensor(task.labels)

    def __call__(self, number: int) -> tuple[Tensor, Any]:
        """Images and labels of a pass; samples come round again where there are few."""
        chosen = torch.arange(number * self.samples, (number + 1) * self.samples)
        chosen %= len(self.labels)
        return self.images[chosen], self.labels[chosen]
