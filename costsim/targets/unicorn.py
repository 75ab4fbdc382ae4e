"""An emulated Cortex-M7: the step as machine code, inside exactly the device's memory."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import numpy as np

from costsim.device import DeviceSpec, load_device
from costsim.emission import Quantization, check_step, is_narrow
from costsim.emulation.build import DEFAULT_STACK_BYTES, DoesNotFit
from costsim.emulation.emulator import EmulatedFault, EmulatorLost, require_unicorn
from costsim.emulation.memory_map import MemoryMap, memory_map
from costsim.emulation.toolchain import Compiler, CompilerName, find_compiler
from costsim.errors import InputError
from costsim.planfile import PlanFile
from costsim.program import TrainingProgram, compile_program, plan_arena
from costsim.targets.base import (
    How,
    Session,
    Target,
    TargetError,
    TargetOptions,
    Watch,
    refuse_parameters,
)
from costsim.targets.job import Job, PlanJob
from costsim.targets.outcome import Outcome
from costsim.units import format_bytes, parse_bytes

if TYPE_CHECKING:
    from costsim.emulation.trial import Trial

CORE = "cortex-m7"
SEED = 0


@dataclass(frozen=True)
class FirmwareChoices:
    """What a person may say about a firmware, as parameters of a target.

    device: whose memory map, instead of the plan's device. ram: bytes of the arena's RAM, instead
    of all there is. stack: bytes set aside for it. compiler: `zig` or `gcc`.
    """

    device: str | None = None
    ram_bytes: int | None = None
    stack_bytes: int = DEFAULT_STACK_BYTES
    compiler: CompilerName | None = None

    NAMES: ClassVar[tuple[str, ...]] = ("device", "ram", "stack", "compiler")

    @classmethod
    def parse(cls, target: str, parameters: Mapping[str, str]) -> "FirmwareChoices":
        """The choices in a target's parameters. Raises `InputError` naming the target."""
        ram, stack = parameters.get("ram"), parameters.get("stack")
        compiler: Any = parameters.get("compiler")
        if compiler is not None and compiler not in get_args(CompilerName):
            allowed = ", ".join(get_args(CompilerName))
            raise InputError(f"target {target!r}: compiler {compiler!r}; allowed are {allowed}")
        try:
            return cls(
                parameters.get("device"),
                None if ram is None else int(parse_bytes(ram)),
                DEFAULT_STACK_BYTES if stack is None else -(-int(parse_bytes(stack)) // 8) * 8,
                compiler,
            )
        except InputError as error:
            raise InputError(f"target {target!r}: {error}") from error

    @property
    def given(self) -> str:
        """As they stand in a target's name."""
        parts = {
            "device": self.device,
            "ram": self.ram_bytes,
            "stack": None if self.stack_bytes == DEFAULT_STACK_BYTES else self.stack_bytes,
            "compiler": self.compiler,
        }
        listed = [f"{name}={value}" for name, value in parts.items() if value is not None]
        return f"?{'&'.join(listed)}" if listed else ""

    def board(self, plan: PlanFile) -> tuple[DeviceSpec, MemoryMap]:
        """The device, and the memories that the firmware may use."""
        name = self.device or (None if plan.device is None else plan.device.name)
        if name is None:
            raise InputError("the plan is for no device; say whose memory it is: ?device=stm32f746")
        device = load_device(name)
        memory = memory_map(device)
        return device, memory if self.ram_bytes is None else memory.limited(self.ram_bytes)


@dataclass(frozen=True)
class UnicornTarget(Target):
    """unicorn's Cortex-M7 with the memory map of a device file."""

    choices: FirmwareChoices = field(default_factory=FirmwareChoices)
    options: TargetOptions = field(default_factory=TargetOptions)
    how: ClassVar[How] = "emulated"
    own_bits: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """`unicorn:cortex-m7`, with the parameters that were given."""
        return f"unicorn:{CORE}{self.choices.given}"

    @classmethod
    def parse(
        cls, place: str, parameters: Mapping[str, str], options: TargetOptions
    ) -> "UnicornTarget":
        """See `Target.parse`: the place is the core."""
        if place != CORE:
            raise InputError(f"target 'unicorn:{place}': no such core; allowed is unicorn:{CORE}")
        refuse_parameters(f"unicorn:{place}", parameters, FirmwareChoices.NAMES)
        return cls(FirmwareChoices.parse(f"unicorn:{place}", parameters), options)

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
        from costsim.emission import EmissionOptions
        from costsim.emulation.trial import Trial

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
        from costsim.targets.emulated import EmulatedStep

        assert self.trial is not None
        assert self.job is not None
        assert self.device is not None
        self.watch.report("emulating a step", 0, 0)
        trial = self.trial
        x, labels = noise(trial.program)
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
            ),
        )

    def clean_up(self) -> None:
        """End the worker."""
        trial, self.trial = self.trial, None
        if trial is not None:
            trial.emulator.close()


def program_of(job: PlanJob) -> TrainingProgram:
    """The step of a plan as it is emitted: in the plan's own bit widths.

    Raises `InputError`, naming the call and the operator, where there is no C for it.
    """
    check_step(job.graph, job.plan.step)
    return compile_program(job.graph, job.plan.plan, job.plan.step)


def scales_of(job: PlanJob, program: TrainingProgram) -> Quantization | None:
    """Scales for a step in 8 bits: of a published file, or of the noise that it runs on."""
    if not is_narrow(program.step.bits):
        return None
    import torch
    from safetensors.torch import load_file

    from costsim.targets.scales import find_scales

    images, _ = noise(program)
    scales, _ = find_scales(
        program.graph, load_file(job.weights), lambda: torch.from_numpy(images), job.origin
    )
    return scales


def noise(program: TrainingProgram) -> tuple[Any, Any]:
    """Images and labels of one step, the same every time."""
    shape = program.graph[program.graph.input].shape
    output = program.graph[program.graph.output].shape
    batch, classes = program.step.batch, int(np.prod(output[1:]))
    generator = np.random.default_rng(SEED)
    x = generator.uniform(-1, 1, (batch, *shape[1:])).astype(np.float32)
    return x, np.arange(batch) % classes


def does_not_fit(
    target: str, program: TrainingProgram, memory: MemoryMap, error: DoesNotFit
) -> TargetError:
    """The linker's refusal, in this project's words; `predicted` where the price says so too."""
    found = re.search(r"section '?([^ ']+)'? will not fit in region '?(\w+)'?", str(error))
    missing = re.search(r"overflowed by (\d+) bytes", str(error))
    in_flash = bool(found and found[2] == "FLASH")
    place = memory.flash if in_flash else memory.arena
    told = f"{'flash' if in_flash else 'RAM'} of {format_bytes(place.size_bytes)}"
    more = f": {int(missing[1]):,} bytes too many" if missing else ""
    arena = plan_arena(program).size_bytes
    return TargetError(
        target,
        "memory",
        f"the firmware does not fit in the {told} of {memory.device}{more} "
        f"(the arena takes {arena:,} bytes, in {program.step.bits.activations} bits; {error})",
        predicted=not in_flash and arena > memory.arena.size_bytes,
    )


def target_error(target: str, error: EmulatedFault | EmulatorLost) -> TargetError:
    """What stopped the core, with a reason to act on."""
    if isinstance(error, EmulatedFault):
        slow = error.fault.kind == "time limit"
        return TargetError(target, "time limit" if slow else "failed", str(error))
    return TargetError(target, "failed", str(error))
