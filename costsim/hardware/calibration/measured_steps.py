"""Measured steps out of the files that `costsim measure` and `costsim validate` wrote."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from costsim.base.errors import InputError, shown
from costsim.base.files import read_json
from costsim.device import DeviceSpec
from costsim.device.interval import Interval
from costsim.hardware.calibration.parts import Work
from costsim.hardware.calibration.power import Draw, draw_of
from costsim.hardware.results.measurement_file import MeasurementFile, unlike_prediction
from costsim.hardware.results.record import Machine, Measurement
from costsim.ir.program import TrainingProgram, compile_program
from costsim.ir.step import BitWidths
from costsim.pricing.cost import operation_work, step_seconds
from costsim.solving.planfile import PlanFile, read_plan


@dataclass(frozen=True)
class MeasuredStep:
    """The median step of one plan on one target, begun at `when` (ISO 8601), and its prediction.

    `work` are its operations, `machine` is where it ran and `draw` what it drew meanwhile, where
    they are known. `unlike` says why that is not the device predicted for: then nothing is judged.
    """

    source: str
    model: str
    target: str
    when: str
    measured_s: float
    predicted: Interval
    work: tuple[Work, ...] = ()
    machine: Machine | None = None
    draw: Draw | None = None
    unlike: str = ""

    @property
    def time(self) -> datetime:
        """`when`, in UTC; raises `InputError` for what is no time."""
        try:
            found = datetime.fromisoformat(self.when)
        except ValueError as error:
            raise InputError(
                f"{self.source}: started: {self.when!r} is no time; one is written like "
                "'2026-01-31T12:00:00+00:00'"
            ) from error
        return found.replace(tzinfo=found.tzinfo or UTC).astimezone(UTC)

    @property
    def ratio(self) -> float:
        """Measured over predicted."""
        return self.measured_s / self.predicted.value

    @property
    def holds(self) -> bool:
        """Whether the measured step lies in the predicted interval; means nothing if `unlike`."""
        return self.predicted.low <= self.measured_s <= self.predicted.high


def measured_steps(
    paths: Sequence[Path],
    device: DeviceSpec | None,
    target: str | None = None,
    plans: Sequence[Path] = (),
) -> list[MeasuredStep]:
    """Every timed run in `paths`, in order of time.

    Predicted anew for `device`; without one the prediction that was made then stands, and where
    there is none it is made for the device that the plan holds. What `costsim validate` wrote holds
    no plan: it must be among `plans`. Raises `InputError` for a file without timed steps, or
    without a prediction where none can be made.
    """
    found: list[MeasuredStep] = []
    programs = _Programs()
    for path in paths:
        document = read_json(path)
        schema = document.get("schema") if isinstance(document, dict) else None
        if schema == Measurement.schema_name:
            found.append(_validated(path, document, device, target, plans, programs))
        elif schema == MeasurementFile.schema_name:
            file = MeasurementFile.from_json(document, str(path))
            found += _runs(path, file, device, target, programs)
        else:
            raise InputError(
                f"{path}: schema: {shown(schema)}; allowed are {MeasurementFile.schema_name} "
                f"(costsim measure --out) and {Measurement.schema_name} (costsim validate)"
            )
    return sorted(found, key=lambda step: step.time)


def _runs(
    path: Path,
    file: MeasurementFile,
    device: DeviceSpec | None,
    target: str | None,
    programs: "_Programs",
) -> list[MeasuredStep]:
    found = []
    own = file.plan_file(str(path)).device_spec
    for run in file.runs:
        measurement = run.outcome.measurement
        # On one thread, what the processor took: a calibration is of that too.
        timed = run.outcome.processor_step_s or (measurement.step_s if measurement else ())
        if measurement is None or not timed:
            continue
        work: tuple[Work, ...] = ()
        latency = file.predicted_for(run.outcome).latency_s
        asked = own if device is None and latency is None else device
        if asked is not None:
            narrow = measurement.dtype != "float32"
            program = programs.of(path, file.plan_file(str(path)), own_bits=narrow)
            predicted = step_seconds(program, asked.target(target))
            if not narrow:  # 8-bit kernels have rates of their own, of which parts know nothing
                work = _work(program)
        elif latency is not None:
            predicted = Interval(latency.value, latency.low, latency.high)
        else:
            raise InputError(f"{path}: predicted: no latency_s; give --device to predict it now")
        found.append(
            MeasuredStep(
                str(path),
                measurement.model,
                run.outcome.target,
                run.started,
                _median(path, timed),
                predicted,
                work,
                measurement.machine,
                draw_of(run.outcome),
                unlike_prediction(file.plan_file(str(path)), asked, target, measurement.machine),
            )
        )
    if not found:
        raise InputError(f"{path}: runs: none has a timed step")
    return found


def _validated(
    path: Path,
    document: object,
    device: DeviceSpec | None,
    target: str | None,
    plans: Sequence[Path],
    programs: "_Programs",
) -> MeasuredStep:
    """What `costsim validate` measured here; it is of the plan that has the same operations."""
    measurement = Measurement.from_json(document, str(path))
    names = [operation.name for operation in measurement.operations]
    for plan_path in plans:
        own_bits = measurement.dtype != "float32"
        plan = read_plan(plan_path)
        program = programs.of(plan_path, plan, own_bits=own_bits)
        if [operation.name for operation in program.operations] == names:
            break
    else:
        given = f"{', '.join(map(str, plans))} is of another step" if plans else "none is given"
        raise InputError(
            f"{path}: written by costsim validate, without its plan: give that with --plan "
            f"({given})"
        )
    asked = plan.device_spec if device is None else device
    if asked is None:
        raise InputError(f"{path}: holds no prediction; give --device to predict it now")
    if not measurement.step_s:
        raise InputError(f"{path}: step_s: no step was timed")
    when = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
    return MeasuredStep(
        str(path),
        measurement.model,
        "local",
        when,
        _median(path, measurement.step_s),
        step_seconds(program, asked.target(target)),
        _work(program),
        measurement.machine,
        unlike=asked.unlike(measurement.machine, target),
    )


def _median(path: Path, timed: Sequence[float]) -> float:
    seconds = statistics.median(timed)
    if seconds <= 0:
        raise InputError(f"{path}: runs: a step of {seconds} s; more than 0 is needed")
    return seconds


def _work(program: TrainingProgram) -> tuple[Work, ...]:
    return tuple(
        operation_work(program, operation)
        for operation in program.operations
        for _ in range(program.times(operation))
    )


class _Programs:
    """The steps of plans; each is traced once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, bool], TrainingProgram] = {}

    def of(self, path: Path, plan: PlanFile, *, own_bits: bool = False) -> TrainingProgram:
        """The step of `plan`, which stands in the file `path`: in 32 bits, or in the plan's own."""
        from costsim.base.trust import check_named
        from costsim.learning.training.base_model import check_input, load_subject
        from costsim.solving.planfile import model_found_again

        key = json.dumps(plan.to_json(), sort_keys=True), own_bits
        if key not in self._known:
            try:
                check_input(plan, "plan")
                subject = load_subject(
                    model_found_again(check_named(plan.model.spec, "plan"), str(path)),
                    weights=None,
                    resolution=plan.model.resolution,
                    seed=plan.seed,
                    batch=plan.step.samples_a_pass,
                    fold=plan.model.folds_batch_norm,
                )
                step = plan.step if own_bits else replace(plan.step, bits=BitWidths())
                self._known[key] = compile_program(subject.graph, plan.plan, step)
            except InputError as error:
                raise InputError(f"{path}: {error}") from error
        return self._known[key]
