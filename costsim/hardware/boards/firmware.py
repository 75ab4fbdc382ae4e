"""Targets that run the firmware of a plan: what a person may choose, and what goes into it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self, get_args

import numpy as np

from costsim.base.errors import InputError
from costsim.base.units import format_bytes, parse_bytes
from costsim.c.emission import EmissionOptions, Quantization, check_step, is_narrow
from costsim.c.emission.options import ClassMeans
from costsim.c.emulation.build import DEFAULT_STACK_BYTES, DoesNotFit
from costsim.c.emulation.memory_map import MemoryMap, memory_map
from costsim.c.emulation.toolchain import CompilerName
from costsim.device import DeviceSpec, load_device
from costsim.hardware.targets.base import How, Target, TargetError, TargetOptions, refuse_parameters
from costsim.hardware.targets.job import PlanJob
from costsim.ir.program import TrainingProgram, compile_program, plan_arena
from costsim.ir.step import BitWidths
from costsim.solving.planfile import PlanFile

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
        device = plan.device_spec if self.device is None else load_device(self.device)
        if device is None:
            raise InputError("the plan is for no device; say whose memory it is: ?device=stm32f746")
        memory = memory_map(device)
        return device, memory if self.ram_bytes is None else memory.limited(self.ram_bytes)


@dataclass(frozen=True)
class EmulatorTarget(Target):
    """An emulated core with the memory map of a device file."""

    choices: FirmwareChoices = field(default_factory=FirmwareChoices)
    options: TargetOptions = field(default_factory=TargetOptions)
    how: ClassVar[How] = "emulated"
    own_bits: ClassVar[bool] = True
    place: ClassVar[str]
    """The scheme and the core or machine, of which there is one: `unicorn:cortex-m7`."""

    @property
    def name(self) -> str:
        """The place, with the parameters that were given."""
        return f"{self.place}{self.choices.given}"

    @classmethod
    def parse(cls, place: str, parameters: Mapping[str, str], options: TargetOptions) -> Self:
        """See `Target.parse`: the place is the core or machine."""
        scheme, _, known = cls.place.partition(":")
        given = f"{scheme}:{place}"
        if place != known:
            raise InputError(f"target {given!r}: there is none; allowed is {cls.place}")
        refuse_parameters(given, parameters, FirmwareChoices.NAMES)
        return cls(FirmwareChoices.parse(given, parameters), options)


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

    from costsim.hardware.boards.scales import find_scales

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


def losses_in_pytorch(
    program: TrainingProgram,
    tensors: dict[str, Any],
    batches: Sequence[tuple[Any, Any]],
    options: EmissionOptions,
    support: tuple[Any, Any] | None = None,
) -> list[float]:
    """Losses of the steps of `program` in 32 bits by the executor, which updates `tensors`.

    With `options` of class means these are of the images and labels of `support`.
    """
    import torch

    from costsim.hardware.meters.plan_validation import classification_loss
    from costsim.run.execution.executor import Executor

    floats = program
    if program.step.bits != BitWidths():
        step = replace(program.step, bits=BitWidths())
        floats = compile_program(program.graph, program.plan, step)
    loss = classification_loss
    if options.class_means is not None:
        assert support is not None
        loss = _loss_by_means(floats, tensors, support, options.class_means)
    executor = Executor(
        floats, tensors, learning_rate=options.learning_rate, momentum=options.momentum, loss=loss
    )
    return [
        float(executor.step(torch.from_numpy(x), torch.from_numpy(labels))) for x, labels in batches
    ]


def _loss_by_means(
    program: TrainingProgram,
    tensors: Mapping[str, Any],
    support: tuple[Any, Any],
    classifier: ClassMeans,
) -> Any:
    """The loss of a pass by the class means of `support`, as `tensors` are now."""
    import torch

    from costsim.run.criteria.loss import prototype_loss, prototypes
    from costsim.run.execution.forward import evaluate

    images, labels = (torch.from_numpy(array) for array in support)
    size = program.graph.batch
    places = torch.arange(-(-len(images) // size) * size) % len(images)
    with torch.no_grad():
        parts = [evaluate(program.graph, tensors, part)[0] for part in images[places].split(size)]
        means = prototypes(torch.cat(parts)[: len(images)], labels)

    def loss(output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return prototype_loss(output, labels, classifier.temperature, means) / len(labels)

    return loss


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
