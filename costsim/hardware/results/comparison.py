"""The comparison of a measurement with a program's price and with a plan file's prediction."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from costsim.hardware.results.record import Comparison, Measurement, Validation
from costsim.ir.program import Category, Direction, TrainingProgram, memory_timeline
from costsim.ir.program.layer_of import buffer_owner, operation_owner
from costsim.pricing.cost import mac_cost, memory_cost

NOT_JUDGED = "shown side by side, not judged"
"""Said of seconds and joules that were predicted for another machine than they were measured on."""

PROCESS_TOLERANCE = 0.02
"""Share by which the process's peak may differ; everything else must be equal."""


@dataclass(frozen=True)
class PredictedTotals:
    """What one step is said to cost; `process_peak_bytes` with the kernels' scratch in it."""

    kept_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    updated_weight_bytes: int
    peak_bytes: int
    process_peak_bytes: int
    macs: Mapping[str, int]
    step_s: float | None = None


def predicted_process_bytes(program: TrainingProgram, scratch_bytes: tuple[int, ...]) -> int:
    """The program's live bytes and the scratch of the operation, where they are most."""
    live = memory_timeline(program).total_bytes
    return max(int(total) + extra for total, extra in zip(live, scratch_bytes, strict=True))


def priced_totals(program: TrainingProgram, scratch_bytes: tuple[int, ...]) -> PredictedTotals:
    """What `program` itself says it costs."""
    memory, macs = memory_cost(program), mac_cost(program)
    return PredictedTotals(
        kept_bytes=memory.kept_bytes,
        gradient_bytes=memory.gradient_bytes,
        optimizer_bytes=memory.optimizer_bytes,
        updated_weight_bytes=memory.updated_weight_bytes,
        peak_bytes=memory.peak_bytes,
        process_peak_bytes=predicted_process_bytes(program, scratch_bytes),
        macs={
            "forward": macs.forward,
            "recompute": macs.recompute,
            "input_gradient": macs.input_gradient,
            "weight_gradient": macs.weight_gradient,
        },
    )


def compare(
    program: TrainingProgram,
    totals: PredictedTotals,
    measured: Measurement,
    *,
    device: str | None = None,
    notes: tuple[str, ...] = (),
) -> Validation:
    """Put `measured` beside `totals` and, layer by layer, beside `program`.

    Bytes and MACs must be equal, the process's peak within `PROCESS_TOLERANCE`; time is compared
    informally, since this machine is not the device.
    """
    comparisons = [
        *_memory(totals, measured),
        *_macs(totals, measured),
        *_operations(program, measured),
        *_owners(program, measured),
    ]
    if totals.step_s is not None and measured.step_s:
        comparisons.append(
            Comparison.of("step", totals.step_s, measured.median_s, unit="s", tolerance=None)
        )
    calls = measured.uncounted_calls
    if calls:
        notes = (*notes, f"calls that multiply but are not counted: {', '.join(calls)}")
    return Validation(
        model=measured.model,
        device=device,
        machine=measured.machine,
        comparisons=tuple(comparisons),
        notes=(*notes, *measured.warnings),
    )


def _memory(totals: PredictedTotals, measured: Measurement) -> Iterator[Comparison]:
    yield Comparison.of("kept", totals.kept_bytes, measured.kept_bytes)
    yield Comparison.of(
        "weight gradients", totals.gradient_bytes, measured.bytes_of(Category.WEIGHT_GRADIENT)
    )
    yield Comparison.of(
        "optimizer state", totals.optimizer_bytes, measured.bytes_of(Category.OPTIMIZER)
    )
    yield Comparison.of(
        "updated weights", totals.updated_weight_bytes, measured.updated_weight_bytes
    )
    yield Comparison.of("live peak", totals.peak_bytes, measured.program_peak_bytes)
    yield Comparison.of(
        "process peak",
        totals.process_peak_bytes,
        measured.process_peak_bytes,
        tolerance=PROCESS_TOLERANCE,
    )


def _macs(totals: PredictedTotals, measured: Measurement) -> Iterator[Comparison]:
    for direction in Direction:
        predicted, found = totals.macs.get(direction, 0), measured.macs_of(direction)
        if predicted or found:
            yield Comparison.of(f"{direction} MACs", predicted, found, unit="MACs")


def _operations(program: TrainingProgram, measured: Measurement) -> Iterator[Comparison]:
    """Only where it differs: the operation at which the live bytes are furthest off."""
    live = memory_timeline(program).total_bytes
    pairs = [
        (int(predicted), operation.live_bytes, operation.name)
        for predicted, operation in zip(live, measured.operations, strict=True)
    ]
    predicted, found, name = max(pairs, key=lambda pair: abs(pair[0] - pair[1]))
    if predicted != found:
        yield Comparison.of(f"live at {name!r}", predicted, found)


def _owners(program: TrainingProgram, measured: Measurement) -> Iterator[Comparison]:
    """Bytes and MACs by layer (by call where there is none), in the order of the model."""
    predicted: dict[tuple[str, str], int] = defaultdict(int)
    found: dict[tuple[str, str], int] = defaultdict(int)
    kept = {buffer.name for buffer in program.kept()}
    for planned in program.buffers:
        owner = buffer_owner(program, planned.name)
        if owner and (what := _quantity(str(planned.category), planned.name in kept)):
            predicted[owner, what] += planned.bytes
    for buffer in measured.buffers:
        if buffer.owner and (what := _quantity(buffer.category, buffer.kept)):
            found[buffer.owner, what] += buffer.bytes
    for operation in program.operations:
        if operation.macs and (owner := operation_owner(program, operation)):
            amount = program.times(operation) * operation.macs
            predicted[owner, f"{operation.direction} MACs"] += amount
    for one in measured.operations:
        if one.macs and one.owner:
            found[one.owner, f"{one.direction} MACs"] += one.macs
    order = {call.layer or call.name: i for i, call in enumerate(program.graph.calls)}
    for owner, what in sorted(predicted.keys() | found.keys(), key=lambda k: (order[k[0]], k[1])):
        yield Comparison.of(
            what,
            predicted.get((owner, what), 0),
            found.get((owner, what), 0),
            owner=owner,
            unit="MACs" if what.endswith("MACs") else "bytes",
        )


def _quantity(category: str, kept: bool) -> str | None:
    if kept:
        return "kept"
    return {
        str(Category.WEIGHT_GRADIENT): "weight gradients",
        str(Category.OPTIMIZER): "optimizer state",
    }.get(category)
