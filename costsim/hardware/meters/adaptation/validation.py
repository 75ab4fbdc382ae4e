"""Validating a plan's whole adaptation: every phase run on this machine, all of it compared."""

import statistics
from collections.abc import Mapping

import torch

from costsim.base.errors import InputError
from costsim.base.progress import Progress, silent
from costsim.base.units import format_bytes
from costsim.hardware.meters.adaptation.images import TaskImages, task_images
from costsim.hardware.meters.adaptation.program import (
    PLACES,
    planned_adaptation,
    planned_scoring,
    predicted_adaptation,
    stored_bytes,
)
from costsim.hardware.meters.adaptation.sequence import Extent, Sequence
from costsim.hardware.meters.measure import uncounted_calls
from costsim.hardware.meters.plan_validation import (
    ValidationRequest,
    in_type,
    load_request,
    run_type,
    widths,
)
from costsim.hardware.results.adaptation_validation import (
    AdaptationExtent,
    AdaptationValidation,
    MeasuredPhase,
    compare_adaptation,
)
from costsim.hardware.results.comparison import NOT_JUDGED
from costsim.hardware.results.machine import describe_machine
from costsim.ir.program.adaptation import AdaptationProgram, Phase, Scored
from costsim.ir.step import BitWidths
from costsim.learning.training.base_model import Subject
from costsim.learning.training.copies import Copies
from costsim.learning.training.frozen_values import FrozenValues
from costsim.learning.training.trainer import Support, Trainer
from costsim.solving.planfile import AdaptationRecord

LARGEST_KEPT_BYTES = 2**33
"""Of what is kept of the part before the cut: more than that is not held here."""


def validate_adaptation(
    request: ValidationRequest, extent: AdaptationExtent, progress: Progress | None = None
) -> AdaptationValidation:
    """Run the adaptation that a plan asks for and compare it with what the plan predicts.

    First it is timed, then, from the same weights, run again and counted, which takes longer.
    Small: each phase as often as `request.steps` says to time it, and once to count it. Full: all
    of it, both times. Raises `InputError` for a plan without a whole adaptation and for a model or
    images that cannot be used.
    """
    report = progress or silent
    plan, source = request.plan, request.source
    predicted = predicted_adaptation(plan, source)
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    report("loading the model", 0, 0)
    subject, notes = load_request(request)
    dtype = run_type(plan.step.bits)
    scored = planned_scoring(plan, subject.graph, source)
    whole = planned_adaptation(
        plan, subject.graph, scored, source, BitWidths() if dtype is None else None
    )
    _check_room(whole, source)
    images, told = task_images(request, subject, progress)
    notes += told
    if dtype is None:
        predicted = _repriced(predicted, whole)
        notes.append(
            f"the plan is for {widths(plan.step.bits)}; PyTorch runs it in 32 bits, so the same "
            "adaptation was priced again for 32 bits and the MACs and runs alone are the plan "
            "file's"
        )
    runner = _Runner(subject, whole, scored, images, dtype or torch.float32, progress)
    timed = runner.run(Extent(request.steps if extent == "small" else None, counting=False))
    counted = runner.run(Extent(1 if extent == "small" else None, counting=True))
    found = {str(phase): _measured(phase, timed, counted) for phase in counted.meters}
    notes.append("MACs are those of the network: what the loss takes is counted nowhere")
    if extent == "small":
        notes.append(
            "MACs and seconds are those of a run of each phase, times how often the plan runs it"
        )
    if calls := sorted({c for m in counted.meters.values() for c in uncounted_calls(m.counter)}):
        notes.append(f"calls that multiply but are not counted: {', '.join(calls)}")
    machine, device = describe_machine(torch.get_num_threads()), plan.device
    if device is not None and predicted.latency_s is not None:
        notes.append(
            f"seconds are predicted for {device.title} and measured on {machine.cpu}: {NOT_JUDGED}"
        )
    return AdaptationValidation(
        model=plan.model.name,
        device=None if device is None else device.title,
        machine=machine,
        comparisons=compare_adaptation(predicted, found, _stored(counted)),
        notes=tuple(notes),
        extent=extent,
        runs={str(phase): meter.runs for phase, meter in counted.meters.items()},
    )


class _Runner:
    """Runs an adaptation again and again, each time from the same weights."""

    def __init__(
        self,
        subject: Subject,
        whole: AdaptationProgram,
        scored: Scored | None,
        images: TaskImages,
        dtype: torch.dtype,
        progress: Progress | None,
    ) -> None:
        self.whole, self.scored, self.images, self.progress = whole, scored, images, progress
        network = subject.trainable()
        everyone = torch.arange(len(images.labels))
        copies = Copies(images.of(everyone, torch.float32), whole.recipe)
        support = Support(copies, images.labels, FrozenValues(network, 0))
        self.order = Trainer(network, whole.plan, support, whole.recipe.rate)
        self.tensors = in_type(subject.tensors, dtype)

    def run(self, extent: Extent) -> Sequence:
        """The adaptation as far as `extent`, run; the weights are as before."""
        sequence = Sequence(
            self.whole,
            self.tensors,
            self.images,
            self.order,
            extent,
            scored=self.scored,
            progress=self.progress,
        )
        try:
            sequence.run()
        finally:
            sequence.restore()
        return sequence


def _measured(phase: Phase, timed: Sequence, counted: Sequence) -> MeasuredPhase:
    meter, planned = counted.meters[phase], counted.whole[phase]
    runs = planned.times * planned.rounds
    if counted.extent.most is not None:
        times, seconds = planned.times, statistics.median(timed.meters[phase].seconds) * runs
        macs = {cause: count * runs // meter.runs for cause, count in meter.macs.items()}
    else:
        times, seconds = meter.runs // planned.rounds, sum(timed.meters[phase].seconds)
        macs = dict(meter.macs)
    return MeasuredPhase(meter.runs, times, counted.held_bytes(phase), macs, seconds)


def _stored(sequence: Sequence) -> Mapping[str, int]:
    """The most bytes that lie in each place but RAM at once, as they lie in memory here."""
    sizes, whole = sequence.lasting_bytes(), sequence.whole
    found = {
        place: max(
            sum(
                sizes.get(buffer.name, 0)
                for buffer in whole.lasting
                if buffer.place == place and phase in buffer.phases
            )
            for phase in sequence.meters
        )
        for place in PLACES
        if place != "ram"
    }
    return {place: size for place, size in found.items() if size}


def _repriced(predicted: AdaptationRecord, whole: AdaptationProgram) -> AdaptationRecord:
    """The bytes of `whole`, the rest as it was predicted."""
    peaks = {str(phase.phase): whole.peak_bytes(phase) for phase in whole.phases}
    return predicted.model_copy(
        update={
            "peak_bytes": max(peaks.values()),
            "stored_bytes": stored_bytes(whole),
            "phases": tuple(
                phase.model_copy(update={"peak_bytes": peaks.get(phase.phase, phase.peak_bytes)})
                for phase in predicted.phases
            ),
        }
    )


def _check_room(whole: AdaptationProgram, source: str) -> None:
    kept = sum(buffer.bytes for buffer in whole.lasting if buffer.name == "cached values")
    if kept > LARGEST_KEPT_BYTES:
        raise InputError(
            f"{source}: recipe.cache_in: what is kept takes {format_bytes(kept)}; at most "
            f"{format_bytes(LARGEST_KEPT_BYTES)} can be held here"
        )
