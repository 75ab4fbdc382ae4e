"""Validating a plan on an emulated core: predicted beside touched and executed.

The step runs in the plan's own bit widths. In 32 bits its losses and weights are held to PyTorch's;
in 8 bits to those of the numpy reference, bit by bit, and how far the losses are from PyTorch's in
32 bits is told beside them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from costsim.base.errors import InputError
from costsim.base.progress import Progress, silent
from costsim.base.units import format_seconds
from costsim.c.emission import EmissionOptions, Quantization, check_step, integers, is_narrow
from costsim.c.emission.memory import Memory
from costsim.c.emission.reference import Reference
from costsim.c.emission.support import told_of_loss
from costsim.c.emulation.build import DoesNotFit
from costsim.c.emulation.emulator import EmulatedFault, EmulatorLost, require_unicorn
from costsim.c.emulation.toolchain import find_compiler
from costsim.c.emulation.trial import Observed, Trial
from costsim.hardware.boards.firmware import does_not_fit, losses_in_pytorch
from costsim.hardware.boards.scales import find_scales
from costsim.hardware.boards.unicorn import UnicornTarget, target_error
from costsim.hardware.results.emulated_step import EmulatedStep, emulated_machine
from costsim.hardware.results.emulation_comparison import ToPyTorch, ToReference, compare_emulated
from costsim.hardware.results.record import Measurement, Validation
from costsim.ir.program import TrainingProgram, compile_program

if TYPE_CHECKING:
    from torch import Tensor

    from costsim.hardware.meters.plan_validation import ValidationRequest

Batch: TypeAlias = tuple[Any, Any]
"""Images of one step and their labels, as numpy arrays."""

LEARNING_RATE, NARROW_LEARNING_RATE = 1e-3, 5e-3
"""Small, but enough for weights to move: in 8 bits a change below half a unit is lost."""

SCALE_IMAGES = 20
"""Images that the scales of 8 bits are taken from."""


@dataclass(frozen=True)
class EmulatedValidation:
    """A validation, what it is made of, and what to say of it."""

    measurement: Measurement
    validation: Validation
    step: EmulatedStep


@dataclass(frozen=True, eq=False)
class _Task:
    """The steps to be done, on the emulated core and by whoever is to agree with it.

    `tensors` are PyTorch's and change as it trains; `arrays` are the same weights before. Class
    means are of the images and labels of `support`.
    """

    program: TrainingProgram
    tensors: dict[str, "Tensor"]
    arrays: Mapping[str, Any]
    batches: Sequence[Batch]
    options: EmissionOptions
    scales: Quantization | None
    notes: tuple[str, ...]
    support: Batch


@dataclass(frozen=True, eq=False)
class _Emulated:
    """What the steps gave on the emulated core."""

    observed: Observed
    losses: Sequence[float]
    updated: Mapping[str, Any]


def validate_emulated(
    target: UnicornTarget, request: "ValidationRequest", progress: Progress | None = None
) -> EmulatedValidation:
    """Run the steps of `request` on the emulated core and in PyTorch, on the same real images.

    The first is watched access by access. Raises `InputError` for what cannot be used, an operator
    without a C kernel among it, and `TargetError` where the firmware does not fit or does not get
    to its end.
    """
    report = progress or silent
    plan = request.plan
    if plan.predicted is None:
        raise InputError(f"{request.source}: holds no plan: {plan.solver.sentence}")
    require_unicorn()
    compiler = find_compiler(target.choices.compiler)
    device, memory = target.choices.board(plan)
    task = _task(request, report)
    report("building the firmware", 0, 0)
    try:
        trial = Trial.of(
            task.program,
            task.arrays,
            memory,
            options=task.options,
            quantization=task.scales,
            stack_bytes=target.choices.stack_bytes,
            compiler=compiler,
            time_limit_s=target.options.time_limit_s,
        )
    except DoesNotFit as error:
        raise does_not_fit(target.name, task.program, memory, error) from error
    try:
        emulated = _emulate(trial, task, report)
    except (EmulatedFault, EmulatorLost) as error:
        raise target_error(target.name, error) from error
    oracle, told = _oracle(task, emulated, report)
    step = EmulatedStep(task.program, device, trial.firmware, emulated.observed, task.options)
    measurement = step.measurement(plan.model.name)
    comparisons = compare_emulated(
        step, measurement, losses=emulated.losses, oracle=oracle, promised=plan.predicted
    )
    return EmulatedValidation(
        measurement,
        Validation(
            model=plan.model.name,
            device=device.title,
            machine=emulated_machine(trial.firmware),
            comparisons=tuple(comparisons),
            notes=(*task.notes, *told, *_notes(step, len(task.batches))),
            how="emulated",
        ),
        step,
    )


def _task(request: "ValidationRequest", report: Progress) -> _Task:
    """The steps on the plan's own model and images."""
    report("loading the model", 0, 0)
    from costsim.hardware.meters.plan_validation import PlanFeed, load_request

    plan = request.plan
    subject, notes = load_request(request)
    try:
        check_step(subject.graph, plan.step)
    except InputError as error:
        raise InputError(f"{request.source}: {error}") from error
    try:
        program = compile_program(subject.graph, plan.plan, plan.step)
    except InputError as error:
        raise InputError(f"{request.source}: layers: {error}") from error
    tensors = {name: tensor.detach().clone() for name, tensor in subject.tensors.items()}
    feed = PlanFeed(request, subject, report)
    support = feed.images.numpy(), feed.labels.numpy()
    classes = int(np.prod(subject.graph[subject.graph.output].shape[1:]))
    recipe = plan.recipe if plan.loss is not None else replace(plan.recipe, loss="cross_entropy")
    if recipe.loss == "prototype":
        classes = int(support[1].max()) + 1
    batches = [_batch(feed, number, program, classes) for number in range(request.steps)]
    scales, rate = None, LEARNING_RATE
    if is_narrow(plan.step.bits):
        report("taking scales from images", 0, 0)
        scales, told = find_scales(
            subject.graph,
            subject.tensors,
            lambda: feed.images[:SCALE_IMAGES],
            subject.weights,
        )
        notes = [*notes, told]
        rate = NARROW_LEARNING_RATE
    options = EmissionOptions.of_recipe(recipe, classes, learning_rate=rate)
    arrays = {name: tensor.numpy().copy() for name, tensor in tensors.items()}
    if plan.loss is None:
        notes = [*notes, *told_of_loss(plan.loss)]
    return _Task(program, tensors, arrays, batches, options, scales, tuple(notes), support)


def _emulate(trial: Trial, task: _Task, report: Progress) -> _Emulated:
    """The first step watched, the others not; all by the class means before it."""
    batches = task.batches
    with trial:
        if task.options.class_means is not None:
            report("emulating class means", 0, 0)
            trial.take_means(*task.support)
        report("emulating, every access watched", 0, 0)
        observed = trial.observe(*batches[0])
        losses = [observed.loss]
        for number, batch in enumerate(batches[1:], 1):
            report("emulating", number, len(batches))
            losses.append(trial.step(*batch))
        return _Emulated(observed, losses, trial.updated())


def _oracle(
    task: _Task, emulated: _Emulated, report: Progress
) -> tuple[ToPyTorch | ToReference, list[str]]:
    """What the same steps give elsewhere, and what to say of that."""
    report("the same steps in PyTorch", 0, 0)
    in_floats = losses_in_pytorch(
        task.program, task.tensors, task.batches, task.options, task.support
    )
    if task.scales is None:
        furthest, scale = _furthest(emulated.updated, task.tensors)
        return ToPyTorch(tuple(in_floats), furthest, scale), []
    report("the same steps in the numpy reference", 0, 0)
    stored = integers(task.program.graph, task.arrays, task.scales)
    told = [
        *_about_floats(emulated.losses, in_floats),
        *_about_weights(task.program, stored, emulated.updated),
    ]
    return _to_reference(task, task.scales, emulated.updated, in_floats), told


def _to_reference(
    task: _Task, scales: Quantization, updated: Mapping[str, Any], in_floats: Sequence[float]
) -> ToReference:
    """The same steps by the definition of a step in 8 bits, and how much of it is equal."""
    stored = integers(task.program.graph, task.arrays, scales)
    reference = Reference(task.program, stored, scales, task.options, fused=True)
    if reference.classifier is not None:
        reference.take_means(*task.support)
    losses = tuple(reference.step(x, labels) for x, labels in task.batches)
    pairs = [(updated[u.parameter.name], u) for u in reference.memory.updates]
    equal = sum(
        int((whole.reshape(-1) == stored[u.parameter.name].reshape(-1))[u.places].sum())
        for whole, u in pairs
    )
    return ToReference(losses, sum(len(u.places) for _, u in pairs), equal, tuple(in_floats))


def _about_floats(losses: Sequence[float], in_floats: Sequence[float]) -> list[str]:
    furthest = max(abs(a - b) for a, b in zip(losses, in_floats, strict=True))
    return [
        f"in 8 bits the loss of a step is at most {furthest:.2g} off that of PyTorch in 32 bits "
        f"({float(np.mean(losses)):.4g} against {float(np.mean(in_floats)):.4g} on average over "
        f"{len(losses)} {'step' if len(losses) == 1 else 'steps'}), for information"
    ]


def _about_weights(
    program: TrainingProgram, before: Mapping[str, Any], updated: Mapping[str, Any]
) -> list[str]:
    """How many of the integers that the plan updates moved at all."""
    total, moved = 0, 0
    for update in Memory(program).updates:
        name = update.parameter.name
        changed = updated[name].reshape(-1) != before[name].reshape(-1)
        total, moved = total + len(update.places), moved + int(changed[update.places].sum())
    return [f"{moved:,} of the {total:,} updated integers moved"]


def _notes(step: EmulatedStep, steps: int) -> list[str]:
    observed, latency = step.observed, step.latency_s
    instructions = sum(work.instructions for work in observed.work.values())
    macs = sum(work.macs for work in observed.work.values())
    notes = [
        f"{instructions:,} instructions, {instructions / max(1, macs):.1f} for each "
        f"multiply-accumulate, by {step.firmware.compiler.title}",
        f"emulated, not measured: a step would take about {format_seconds(latency.value)} "
        f"({format_seconds(latency.low)} to {format_seconds(latency.high)}) by the core's issue "
        "rules; only a board can tell",
        f"{steps} steps on the emulated core and in PyTorch, from the same weights and images",
    ]
    if step.other_macs:
        notes.append(
            f"{step.other_macs:,} fused multiply-adds of the loss and of updates, which are not "
            "counted in MACs"
        )
    notes += [f"{name}: {count:,} bytes outside its buffers" for name, count in step.strays()]
    return notes


def _batch(feed: Any, number: int, program: TrainingProgram, classes: int) -> Batch:
    """Images and labels of one step, the labels among the model's outputs."""
    passes = [feed(number * program.step.passes + i) for i in range(program.step.passes)]
    x = np.concatenate([np.asarray(images, dtype=np.float32) for images, _ in passes])
    labels = np.concatenate([np.asarray(labels) for _, labels in passes])
    return x, labels % classes


def _furthest(found: Mapping[str, Any], expected: Mapping[str, Any]) -> tuple[float, float]:
    """The greatest difference of an updated weight, and the greatest weight."""
    pairs = [(found[name], expected[name].numpy()) for name in found]
    if not all(np.isfinite(array).all() for pair in pairs for array in pair):
        raise InputError("updated weights are not finite: a learning rate that is too large?")
    error = max((float(np.abs(a - b).max()) for a, b in pairs), default=0.0)
    return error, max((float(np.abs(b).max()) for _, b in pairs), default=0.0)
