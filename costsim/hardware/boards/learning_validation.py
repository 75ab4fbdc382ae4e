"""A whole task learnt by the C of a plan, in the plan's own bit widths, beside PyTorch in 32 bits.

An emulated core takes minutes for what this machine does in seconds: the same C is compiled for it,
and seen to give the same bits as the core on the first images and steps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from costsim.base.errors import InputError
from costsim.base.progress import Progress, silent
from costsim.base.units import counted
from costsim.c.emission import EmissionOptions, Quantization, check_step, emit, integers, is_narrow
from costsim.c.emulation.emulator import EmulatedFault, EmulatorLost, require_unicorn
from costsim.c.emulation.host import HostModel, fuses
from costsim.c.emulation.toolchain import find_compiler
from costsim.c.emulation.trial import DoesNotFit, Trial
from costsim.hardware.boards.emulation_validation import SCALE_IMAGES
from costsim.hardware.boards.firmware import does_not_fit
from costsim.hardware.boards.scales import find_scales
from costsim.hardware.boards.unicorn import UnicornTarget, target_error
from costsim.hardware.results.emulated_step import emulated_machine
from costsim.hardware.results.record import Comparison, Machine, Validation
from costsim.ir.program import TrainingProgram, compile_program
from costsim.learning.training import TrainRequest
from costsim.learning.training.fine_tuning import Run, prepare

if TYPE_CHECKING:
    from costsim.hardware.meters.plan_validation import ValidationRequest

POINTS = 0.02
"""How much less accurate than PyTorch's the C may be, chance apart."""

DEVIATIONS = 2.0
"""Chance: so many standard deviations of the queries that the two answer differently."""

SHARE_OF_FALL = 0.5
"""By how much of what PyTorch's loss falls that of the C may stay above it."""

WATCHED_STEPS = 2
"""Steps that the emulated core does too."""


@dataclass(frozen=True, eq=False)
class Learnt:
    """One task learnt twice: mean losses of iterations, and which queries were answered rightly."""

    losses: tuple[float, ...]
    losses_in_pytorch: tuple[float, ...]
    right: np.ndarray[Any, np.dtype[np.bool_]]
    right_in_pytorch: np.ndarray[Any, np.dtype[np.bool_]]
    right_before: float

    @property
    def accuracy(self) -> float:
        """Of the C."""
        return float(self.right.mean())

    @property
    def accuracy_in_pytorch(self) -> float:
        """Of PyTorch in 32 bits."""
        return float(self.right_in_pytorch.mean())

    @property
    def allowed(self) -> float:
        """How much less accurate the C may be."""
        differing = float((self.right != self.right_in_pytorch).sum())
        return POINTS + DEVIATIONS * math.sqrt(differing) / len(self.right)


def validate_learning(
    target: UnicornTarget,
    request: "ValidationRequest",
    iterations: int | None = None,
    progress: Progress | None = None,
) -> Validation:
    """Learn the plan's task, or the first `iterations` of it, and judge what came of it.

    Raises `InputError` for what cannot be used, and `TargetError` where the firmware does not fit.
    """
    report = progress or silent
    plan = request.plan
    if plan.predicted is None:
        raise InputError(f"{request.source}: holds no plan: {plan.solver.sentence}")
    require_unicorn()
    report("loading the model", 0, 0)
    run = prepare(
        TrainRequest(
            plan, request.source, request.weights, request.data, request.split,
            iterations=iterations,
        )
    )  # fmt: skip
    if not len(run.task.query_labels):
        raise InputError(
            f"{request.source}: task.queries is 0, and what was learnt is judged by answers; plan "
            "with --queries 1 or more"
        )
    c = EmittedTask.of(run, request.source)
    machine, watched = _watch(target, c, run, report)
    learnt = learn(c.on_host(), run, report)
    return Validation(
        model=plan.model.name,
        device=target.choices.board(plan)[0].title,
        machine=machine,
        comparisons=(*watched, *judged(learnt)),
        notes=(*c.notes, *_notes(learnt, run)),
        how="emulated",
    )


@dataclass(frozen=True, eq=False)
class EmittedTask:
    """A plan as C that learns by the plan's own loss and rate."""

    program: TrainingProgram
    arrays: dict[str, Any]
    options: EmissionOptions
    scales: Quantization | None
    notes: tuple[str, ...]

    @classmethod
    def of(cls, run: Run, source: str) -> "EmittedTask":
        """Of a run that is not begun yet: its weights are those the C starts from."""
        plan, subject, recipe = run.request.plan, run.subject, run.recipe
        images = len(run.trainer.labels)
        shown = recipe.batch or recipe.images_a_step(images)
        if plan.step.batch != shown or (images % recipe.image_interval and recipe.batch is None):
            raise InputError(
                f"{source}: an iteration shows {shown} images a step, and a step of the plan is "
                f"over {plan.step.batch}"
            )
        check_step(subject.graph, plan.step)
        program = compile_program(subject.graph, plan.plan, plan.step)
        arrays = {name: t.detach().numpy().copy() for name, t in subject.tensors.items()}
        options = EmissionOptions.of_recipe(recipe, run.task.ways, name=plan.model.name)
        scales: Quantization | None = None
        told: tuple[str, ...] = ()
        if is_narrow(plan.step.bits):
            given = torch.from_numpy(run.task.images[:SCALE_IMAGES].copy())
            scales, sentence = find_scales(
                subject.graph, subject.tensors, lambda: given, subject.weights
            )
            told = (sentence,)
        return cls(program, arrays, options, scales, told)

    def on_host(self) -> HostModel:
        """The C on this machine."""
        sources = emit(self.program, self.arrays, options=self.options, quantization=self.scales)
        stored = self.arrays
        if self.scales is not None:
            stored = integers(self.program.graph, self.arrays, self.scales)
        return HostModel(self.program, sources, stored)


def learn(c: HostModel, run: Run, report: Progress = silent) -> Learnt:
    """Train both, step for step on the same images; then both answer the queries."""
    trainer, recipe, task = run.trainer, run.recipe, run.task
    labels = trainer.labels.numpy()
    by_means = recipe.loss == "prototype"
    losses: list[float] = []
    steps: list[float] = []
    while trainer.iteration < recipe.iterations:
        number, batches = trainer.iteration, trainer.batches()
        if trainer.batch == 0:
            report("learning", number, recipe.iterations)
            if by_means and number % recipe.means_interval == 0:
                c.take_means(task.images, labels)
        taken = trainer.samples()
        steps.append(c.step(_shown(run, taken), labels[taken]))
        trainer.step()
        if trainer.iteration > number:
            losses.append(float(np.mean(steps[-batches:])))
    if by_means:
        c.take_means(task.images, labels)
    found, _ = c.classify(task.query_images)
    return Learnt(
        tuple(losses),
        tuple(trainer.losses),
        found == task.query_labels,
        run.answers() == task.query_labels,
        0.0 if run.accuracy_before is None else run.accuracy_before,
    )


def _shown(run: Run, taken: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The images of a step as the iteration shows them."""
    trainer = run.trainer
    copies, images = trainer.support.copies, trainer.support.places[torch.from_numpy(taken.copy())]
    if not run.recipe.augment:
        return copies.images[images].numpy()
    shown: np.ndarray[Any, Any] = copies.of(copies.picks[trainer.iteration][images], images).numpy()
    return shown


def judged(learnt: Learnt) -> Sequence[Comparison]:
    """What may not be worse: the accuracy, and how far the loss falls. Better is fine."""
    ours, theirs = learnt.losses, learnt.losses_in_pytorch
    finite = int(np.isfinite(ours).sum())
    found = [
        Comparison.of("iterations with a finite loss", len(theirs), finite, unit="1"),
        _no_worse(
            "accuracy on queries, PyTorch's in 32 bits beside it",
            learnt.accuracy_in_pytorch,
            learnt.accuracy,
            learnt.allowed,
            better=learnt.accuracy >= learnt.accuracy_in_pytorch,
        ),
    ]
    if finite < len(ours):
        return found
    told = "loss of iteration {}, PyTorch's in 32 bits beside it"
    found.append(Comparison.of(told.format(1), theirs[0], ours[0], unit="1", tolerance=None))
    falls = theirs[0] - theirs[-1]
    if len(ours) > 1 and falls > 0:
        last = (theirs[-1], ours[-1], SHARE_OF_FALL * falls)
        found.append(_no_worse(told.format(len(ours)), *last, better=ours[-1] <= theirs[-1]))
    return found


def _no_worse(
    quantity: str, theirs: float, ours: float, allowed: float, *, better: bool
) -> Comparison:
    """A comparison that a difference to the better is within."""
    least = max(allowed, abs(ours - theirs)) if better else allowed
    return Comparison.of(quantity, theirs, ours, unit="1", tolerance=least / theirs * (1 + 1e-12))


def _watch(
    target: UnicornTarget, c: EmittedTask, run: Run, report: Progress
) -> tuple[Machine, list[Comparison]]:
    """The first of it on the emulated core and on this machine: how much is equal, bit by bit."""
    _, memory = target.choices.board(run.request.plan)
    report("building the firmware", 0, 0)
    try:
        trial = Trial.of(
            c.program, c.arrays, memory, options=c.options, quantization=c.scales,
            stack_bytes=target.choices.stack_bytes,
            compiler=find_compiler(target.choices.compiler),
            time_limit_s=target.options.time_limit_s,
        )  # fmt: skip
    except DoesNotFit as error:
        raise does_not_fit(target.name, c.program, memory, error) from error
    report("emulating", 0, 0)
    try:
        with trial:
            on_core = _begin(trial, c, run)
    except (EmulatedFault, EmulatorLost) as error:
        raise target_error(target.name, error) from error
    machine = emulated_machine(trial.firmware)
    if not fuses():
        return machine, []
    here = _begin(c.on_host(), c, run)
    equal = sum(a == b for a, b in zip(on_core, here, strict=True))
    return machine, [
        Comparison.of("numbers equal here and on the core, bit by bit", len(here), equal, unit="1")
    ]


def _begin(c: Trial | HostModel, emitted: EmittedTask, run: Run) -> list[bytes]:
    """Class means of an image of each class, some steps and answers: all that comes of them."""
    task, size = run.task, emitted.program.step.batch
    firsts = [int(np.flatnonzero(task.labels == way)[0]) for way in range(task.ways)]
    found: list[bytes] = []
    if emitted.options.class_means is not None:
        c.take_means(task.images[firsts], task.labels[firsts])
        found.append(c.class_means()[: task.ways].tobytes())
    for number in range(WATCHED_STEPS):
        places = np.arange(number * size, (number + 1) * size) % len(task.labels)
        loss = c.step(task.images[places], task.labels[places])
        found.append(np.float32(loss).tobytes())
    pass_size = emitted.program.step.samples_a_pass
    places = np.arange(pass_size) % len(task.query_images)
    found += [array.tobytes() for array in c.classify(task.query_images[places])]
    found += [array.tobytes() for _, array in sorted(c.updated().items())]
    return found


def _notes(learnt: Learnt, run: Run) -> list[str]:
    differing = int((learnt.right != learnt.right_in_pytorch).sum())
    images = counted(len(run.trainer.labels), "image")
    classes = counted(run.task.ways, "class", "classes")
    notes = [
        f"{counted(run.recipe.iterations, 'iteration')} over {images} of {classes} "
        f"by the C, compiled for this machine, and by PyTorch; {run.recipe.optimizer} at "
        f"{run.recipe.rate:g}",
        f"of {counted(len(learnt.right), 'query', 'queries')} the two answer {differing} "
        f"differently: the C may be {100 * learnt.allowed:.1f} points less accurate "
        f"({100 * POINTS:g} and chance); before, {100 * learnt.right_before:.1f} % were right",
    ]
    if not fuses():
        notes.append(
            "this machine has no fused multiply-adds: its C was not compared with the core's bits"
        )
    return notes
