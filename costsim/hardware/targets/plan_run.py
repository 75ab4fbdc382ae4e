"""Running the training step of a plan where this process is, and measuring it."""

import ctypes
import re
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from costsim.base.errors import CostsimError, InputError
from costsim.base.progress import Progress
from costsim.base.units import counted, format_bytes
from costsim.hardware.meters.conditions import Snapshot, describe_change, doubts
from costsim.hardware.meters.energy import EnergyRecorder, find_counters
from costsim.hardware.meters.measure import measure
from costsim.hardware.meters.scratch import ScratchTable, table_path
from costsim.hardware.meters.stepping import one_step
from costsim.hardware.results.comparison import predicted_process_bytes
from costsim.hardware.results.machine import describe_machine, describe_versions
from costsim.hardware.results.outcome import EnergyReading, Outcome
from costsim.hardware.results.record import Measurement
from costsim.hardware.targets.base import Reason
from costsim.hardware.targets.job import PlanJob
from costsim.hardware.targets.readings import Recorder
from costsim.ir.program import TrainingProgram, compile_program
from costsim.ir.step import BitWidths
from costsim.run.execution.executor import Executor

LEARNING_RATE = 1e-6
"""Small: the step is measured, nothing is to be learnt from noise."""

ENERGY_S = 2.0
"""Joules are counted over at least so many seconds of steps, and as many of rest before."""


class _Failure(CostsimError):
    """Why a run brought nothing back, with a reason that the other side understands."""

    def __init__(self, reason: Reason, message: str, predicted: bool) -> None:
        super().__init__(message)
        self.reason: Reason = reason
        self.predicted = predicted


def run_plan(job: PlanJob, report: Progress, recorder: Recorder | None = None) -> Outcome:
    """Measure the step of `job.plan` in this process; joules where the machine counts them.

    It computes in 32 bits whatever the plan says, on noise: seconds and bytes do not depend on
    what is in an image. With a memory limit the step is run again under it, when the kernels are
    compiled and the weights are there, so that the limit is on what the step itself takes.
    `recorder` writes down what is read as it comes; not where the limit decides whether it counts.
    """
    options = job.options
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    step = replace(job.plan.step, bits=BitWidths())
    program = compile_program(job.graph, job.plan.plan, step)
    tensors = load_file(job.weights)
    executor = _executor(program, tensors)
    feed = _Noise(program)
    before = Snapshot.now()
    machine, versions = describe_machine(torch.get_num_threads()), describe_versions()

    def begun(measurement: Measurement) -> None:
        if keeper is not None:
            so_far = describe_change(before, Snapshot.now())
            keeper.begun(
                Outcome(target="", how="measured", measurement=measurement, conditions=so_far)
            )

    keeper = recorder if options.memory_limit_bytes is None else None
    found = measure(
        executor,
        feed,
        model=job.plan.model.name,
        steps=options.steps,
        scratch=ScratchTable.open(table_path(machine, versions)),
        progress=report,
        begun=begun,
        stepped=lambda seconds: None if keeper is None else keeper.stepped(seconds),
    )
    measured = found.measurement
    processor_s: tuple[float, ...] = ()
    if machine.threads == 1:
        report("timing the processor", 0, 0)
        processor_s = tuple(_processor_seconds(executor, feed) for _ in range(options.steps))
    after = Snapshot.now()
    notes = list(doubts(before, after, machine.threads, machine.cores))
    energy: tuple[EnergyReading, ...] = ()
    if options.energy:
        energy, told = _energy(executor, feed, measured.median_s, report)
        notes += told
    if options.memory_limit_bytes is not None:
        report("running under the memory limit", 0, 0)
        state_bytes = sum(t.untyped_storage().nbytes() for t in executor.optimizer_state.values())
        del executor
        notes.append(
            _run_within(
                options.memory_limit_bytes,
                program,
                tensors,
                feed,
                steps=options.steps,
                predicted_bytes=predicted_process_bytes(program, found.scratch_bytes),
                held_bytes=measured.updated_weight_bytes,
                state_bytes=state_bytes,
            )
        )
    return Outcome(
        target="",
        how="measured",
        measurement=measured,
        processor_step_s=processor_s,
        conditions=describe_change(before, after),
        energy=energy,
        notes=tuple(notes),
    )


def _executor(program: TrainingProgram, tensors: dict[str, Tensor]) -> Executor:
    return Executor(program, tensors, learning_rate=LEARNING_RATE, loss=_loss)


def _loss(output: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy over whatever the model returns for a sample, as if it were logits."""
    flat = output.flatten(1)
    return F.cross_entropy(flat, labels % flat.shape[1])


class _Noise:
    """The same noise over and over, a copy for each pass."""

    def __init__(self, program: TrainingProgram) -> None:
        shape = program.graph[program.graph.input].shape
        generator = torch.Generator().manual_seed(0)
        self.images = torch.rand(shape, generator=generator) * 2 - 1
        self.labels = torch.arange(shape[0])

    def __call__(self, number: int) -> tuple[Tensor, Any]:
        return self.images.clone(), self.labels


def _processor_seconds(executor: Executor, feed: _Noise) -> float:
    """Seconds that this thread alone worked for one step."""
    started = time.thread_time()
    one_step(executor, feed)
    return time.thread_time() - started


def _energy(
    executor: Executor, feed: _Noise, step_s: float, report: Progress
) -> tuple[tuple[EnergyReading, ...], list[str]]:
    """Joules of a step by each counter there is, and what a person should know about them."""
    found = find_counters()
    notes = list(found.notes)
    if not found.counters:
        return (), notes
    report("counting joules at rest", 0, 0)
    with EnergyRecorder(found.counters) as rest:
        time.sleep(ENERGY_S)
    steps = max(1, round(ENERGY_S / step_s))
    with EnergyRecorder(found.counters) as work:
        for number in range(steps):
            report("counting joules", number, steps)
            one_step(executor, feed)
    notes.append(
        "joules are of the whole machine while the step ran, other programs and what it draws at "
        "rest included"
    )
    doubts = [a or b for a, b in zip(rest.doubts, work.doubts, strict=True)]
    notes += [
        f"the {source} counter {counter.name} {doubt} meanwhile: its joules are left out"
        for (source, counter), doubt in zip(found.by_source, doubts, strict=True)
        if doubt
    ]
    return tuple(
        EnergyReading(
            source=source,
            counter=counter.name,
            total_j=joules,
            seconds=work.seconds,
            per_step_j=joules / steps,
            idle_w=idle / rest.seconds,
        )
        for (source, counter), joules, idle, doubt in zip(
            found.by_source, work.joules, rest.joules, doubts, strict=True
        )
        if not doubt
    ), notes


def _run_within(
    limit_bytes: int,
    program: TrainingProgram,
    tensors: dict[str, Tensor],
    feed: _Noise,
    *,
    steps: int,
    predicted_bytes: int,
    held_bytes: int,
    state_bytes: int,
) -> str:
    """Run steps while the process may have only `limit_bytes` for them; a sentence if it could.

    The weights that the plan updates are there already and count; those it leaves alone do not.
    Raises `_Failure` (`memory`) where a step does not fit.
    """
    import resource

    room = limit_bytes - held_bytes
    limit = format_bytes(limit_bytes)
    fits = predicted_bytes <= limit_bytes
    told = f"{format_bytes(predicted_bytes)} predicted, the kernels' scratch memory included"
    verdict = "not predicted" if fits else "as predicted"
    failure = _Failure("memory", f"out of memory within {limit}, {verdict}: {told}", not fits)
    if room < state_bytes:
        raise failure
    _trim()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_address_space_bytes() + room, before[1]))
    seconds = []
    try:
        executor = _executor(program, tensors)
        for _ in range(steps):
            started = time.perf_counter()
            one_step(executor, feed)
            seconds.append(time.perf_counter() - started)
    except (RuntimeError, MemoryError) as error:
        resource.setrlimit(resource.RLIMIT_AS, before)
        if isinstance(error, MemoryError) or re.search(r"alloc|memory", str(error).lower()):
            raise failure from error
        raise
    resource.setrlimit(resource.RLIMIT_AS, before)
    return (
        f"{counted(steps, 'step')} ran within {limit}, {'as' if fits else 'though not'} predicted: "
        f"{told}; a step took {statistics.median(seconds):.4g} s there, and all seconds of this "
        "run are longer than without a limit, because memory is given back to the system at once"
    )


def _address_space_bytes() -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError as error:
        raise InputError("a memory limit needs Linux: there is no /proc/self/status") from error
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmSize"))


def _trim() -> None:
    """Give what is free back to the system, where the C library can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
