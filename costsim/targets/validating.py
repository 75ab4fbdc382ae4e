"""Validating a plan on an emulated core: predicted beside touched and executed."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from costsim.data.source import Progress
from costsim.emission import EmissionOptions
from costsim.emulation.build import DoesNotFit
from costsim.emulation.emulator import EmulatedFault, EmulatorLost, require_unicorn
from costsim.emulation.toolchain import find_compiler
from costsim.emulation.trial import Trial
from costsim.errors import InputError
from costsim.measurement.record import Measurement, Validation
from costsim.planfile import PlanFile
from costsim.program import TrainingProgram, compile_program
from costsim.step import BitWidths
from costsim.targets.emulated import EmulatedStep, compare_emulated, emulated_machine
from costsim.targets.unicorn import UnicornTarget, does_not_fit, target_error
from costsim.units import format_seconds

LEARNING_RATE = 1e-3
"""Small, but enough for weights to move."""


@dataclass(frozen=True)
class EmulatedValidation:
    """A validation, what it is made of, and what to say of it."""

    measurement: Measurement
    validation: Validation
    step: EmulatedStep


def validate_emulated(
    target: UnicornTarget,
    plan: PlanFile,
    *,
    source: str = "plan",
    weights: Path | None = None,
    data: Path | None = None,
    split: str | None = None,
    steps: int = 10,
    progress: Progress | None = None,
) -> EmulatedValidation:
    """Run `steps` steps of `plan` on the emulated core and in PyTorch, on the same real images.

    The first is watched access by access. Raises `InputError` for what cannot be used and
    `TargetError` where the firmware does not fit or does not get to its end.
    """
    report = progress or (lambda what, done, total: None)
    if plan.predicted is None:
        raise InputError(f"{source}: holds no plan: {plan.solver.sentence}")
    require_unicorn()
    compiler = find_compiler(target.choices.compiler)
    device, memory = target.choices.board(plan)
    report("loading the model", 0, 0)
    from costsim.measurement.planned import PlanFeed, ValidationRequest, load_request

    request = ValidationRequest(plan, source, weights, data, split)
    subject, notes = load_request(request)
    try:
        program = compile_program(subject.graph, plan.plan, replace(plan.step, bits=BitWidths()))
    except InputError as error:
        raise InputError(f"{source}: layers: {error}") from error
    tensors = {name: tensor.detach().clone() for name, tensor in subject.tensors.items()}
    arrays = {name: tensor.numpy().copy() for name, tensor in tensors.items()}
    feed = PlanFeed(request, subject, progress)
    classes = int(np.prod(subject.graph[subject.graph.output].shape[1:]))
    batches = [_batch(feed, number, program, classes) for number in range(steps)]
    report("building the firmware", 0, 0)
    try:
        trial = Trial.of(
            program,
            arrays,
            memory,
            options=EmissionOptions(learning_rate=LEARNING_RATE),
            stack_bytes=target.choices.stack_bytes,
            compiler=compiler,
            time_limit_s=target.options.time_limit_s,
        )
    except DoesNotFit as error:
        raise does_not_fit(target.name, program, memory, error) from error
    try:
        with trial:
            report("emulating, every access watched", 0, 0)
            observed = trial.observe(*batches[0])
            losses = [observed.loss]
            for number, batch in enumerate(batches[1:], 1):
                report("emulating", number, steps)
                losses.append(trial.step(*batch))
            updated = trial.updated()
    except (EmulatedFault, EmulatorLost) as error:
        raise target_error(target.name, error) from error
    report("the same steps in PyTorch", 0, 0)
    expected = _in_pytorch(program, tensors, batches)
    furthest, scale = _furthest(updated, tensors)
    step = EmulatedStep(program, device, trial.firmware, observed)
    measurement = step.measurement(plan.model.name)
    latency = plan.predicted.latency_s
    same_bits = plan.step.bits == BitWidths()
    comparisons = compare_emulated(
        step,
        measurement,
        losses=losses,
        expected_losses=expected,
        weights_error=furthest,
        weights_scale=scale,
        predicted_step_s=latency.step if latency is not None and same_bits else None,
    )
    return EmulatedValidation(
        measurement,
        Validation(
            model=plan.model.name,
            device=device.title,
            machine=emulated_machine(trial.firmware),
            comparisons=tuple(comparisons),
            notes=(*notes, *_notes(step, steps, same_bits)),
            how="emulated",
        ),
        step,
    )


def _notes(step: EmulatedStep, steps: int, same_bits: bool) -> list[str]:
    observed, latency = step.observed, step.latency_s
    instructions = sum(work.instructions for work in observed.work.values())
    macs = sum(work.fp_macs for work in observed.work.values())
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
    if not same_bits:
        notes.append("the plan is for other bit widths; the step is emitted and priced in 32 bits")
    notes += [f"{name}: {count:,} bytes outside its buffers" for name, count in step.strays()]
    return notes


def _batch(feed: Any, number: int, program: TrainingProgram, classes: int) -> tuple[Any, Any]:
    """Images and labels of one step, the labels among the model's outputs."""
    passes = [feed(number * program.step.passes + i) for i in range(program.step.passes)]
    x = np.concatenate([np.asarray(images, dtype=np.float32) for images, _ in passes])
    labels = np.concatenate([np.asarray(labels) for _, labels in passes])
    return x, labels % classes


def _in_pytorch(
    program: TrainingProgram, tensors: dict[str, Any], batches: list[tuple[Any, Any]]
) -> list[float]:
    """Losses of the same steps by the executor, which updates `tensors`."""
    import torch

    from costsim.execution.executor import Executor
    from costsim.measurement.planned import classification_loss

    executor = Executor(program, tensors, learning_rate=LEARNING_RATE, loss=classification_loss)
    return [
        float(executor.step(torch.from_numpy(x), torch.from_numpy(labels))) for x, labels in batches
    ]


def _furthest(found: Mapping[str, Any], expected: Mapping[str, Any]) -> tuple[float, float]:
    """The greatest difference of an updated weight, and the greatest weight."""
    pairs = [(found[name], expected[name].numpy()) for name in found]
    error = max((float(np.abs(a - b).max()) for a, b in pairs), default=0.0)
    return error, max((float(np.abs(b).max()) for _, b in pairs), default=0.0)
