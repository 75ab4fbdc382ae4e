"""An emulated Cortex-M7: the step as machine code, inside exactly the device's memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from costsim.c.emission import Quantization
from costsim.c.emission.support import told_of_loss
from costsim.c.emulation.build import DoesNotFit
from costsim.c.emulation.emulator import EmulatedFault, EmulatorLost, require_unicorn
from costsim.c.emulation.memory_map import MemoryMap
from costsim.c.emulation.toolchain import Compiler, find_compiler
from costsim.device import DeviceSpec
from costsim.hardware.boards.firmware import (
    EmulatorTarget,
    does_not_fit,
    noise,
    program_of,
    scales_of,
)
from costsim.hardware.results.outcome import Outcome
from costsim.hardware.targets.base import Session, TargetError, Watch
from costsim.hardware.targets.job import Job, PlanJob
from costsim.ir.program import TrainingProgram

if TYPE_CHECKING:
    from costsim.c.emulation.trial import Trial

CORE = "cortex-m7"


@dataclass(frozen=True)
class UnicornTarget(EmulatorTarget):
    """unicorn's Cortex-M7 with the memory map of a device file."""

    place: ClassVar[str] = f"unicorn:{CORE}"

    def session(self, watch: Watch) -> "UnicornSession":
        """See `Target.session`."""
        return UnicornSession(self, watch)


class UnicornSession(Session):
    """A worker process, as long as a job is there."""

    def __init__(self, target: UnicornTarget, watch: Watch) -> None:
        super().__init__(target, watch)
        self.choices, self.options = target.choices, target.options
        self.compiler: Compiler | None = None
        self.job: PlanJob | None = None
        self.device: DeviceSpec | None = None
        self.trial: Trial | None = None

    def start(self) -> None:
        """See that there are an emulator and a compiler."""
        require_unicorn()
        self.compiler = find_compiler(self.choices.compiler)

    def ship(self, job: Job) -> None:
        """Emit and build the firmware, and load it."""
        from safetensors.numpy import load_file

        if not isinstance(job, PlanJob):
            raise TargetError(
                self.target.name, "missing", "runs plans; for kernels a computer is needed"
            )
        self.clean_up()
        self.job = job
        self.device, memory = self.choices.board(job.plan)
        self.watch.report("building the firmware", 0, 0)
        program = program_of(job)
        scales = scales_of(job, program)
        self.trial = self._guarded_trial(program, load_file(job.weights), memory, scales)

    def _guarded_trial(
        self,
        program: TrainingProgram,
        weights: Mapping[str, Any],
        memory: MemoryMap,
        scales: Quantization | None,
    ) -> "Trial":
        from costsim.c.emission import EmissionOptions
        from costsim.c.emulation.trial import Trial

        try:
            return Trial.of(
                program,
                weights,
                memory,
                options=EmissionOptions(learning_rate=1e-4),
                quantization=scales,
                stack_bytes=self.choices.stack_bytes,
                compiler=self.compiler,
                time_limit_s=self.options.time_limit_s,
            )
        except DoesNotFit as error:
            raise does_not_fit(self.target.name, program, memory, error) from error

    def run(self) -> None:
        """Nothing yet: the core runs while its answer is waited for."""

    def collect(self) -> Outcome:
        """Run one step with every access noted."""
        from costsim.hardware.results.emulated_step import EmulatedStep

        assert self.trial is not None
        assert self.job is not None
        assert self.device is not None
        self.watch.report("emulating a step", 0, 0)
        trial = self.trial
        x, labels = noise(trial.program)
        trial.emulator.check = lambda: self.watch.check(self.target.name)
        try:
            with trial:
                observed = trial.observe(x, labels)
        except (EmulatedFault, EmulatorLost) as error:
            raise target_error(self.target.name, error) from error
        step = EmulatedStep(trial.program, self.device, trial.firmware, observed)
        measurement = step.measurement(self.job.plan.model.name)
        return Outcome(
            target=self.target.name,
            how="emulated",
            measurement=measurement,
            counts=step.counts(),
            conditions={
                "memory map": trial.firmware.memory.device,
                "ram_bytes": trial.firmware.memory.arena.size_bytes,
                **dict(measurement.versions),
            },
            notes=(
                "emulated: bytes and multiply-accumulates are of the accesses and instructions "
                "that happened, seconds are a model of the core and were not measured",
                *told_of_loss(self.job.plan.loss),
            ),
        )

    def clean_up(self) -> None:
        """End the worker."""
        trial, self.trial = self.trial, None
        if trial is not None:
            trial.emulator.close()


def target_error(target: str, error: EmulatedFault | EmulatorLost) -> TargetError:
    """What stopped the core, with a reason to act on."""
    if isinstance(error, EmulatedFault):
        slow = error.fault.kind == "time limit"
        return TargetError(target, "time limit" if slow else "failed", str(error))
    return TargetError(target, "failed", str(error))
