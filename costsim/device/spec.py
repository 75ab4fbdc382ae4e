"""A device as a value: memory, compute targets, swap, and the budgets it is recommended for."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from costsim.base.errors import InputError, Mistakes, shown
from costsim.base.nearness import hint
from costsim.base.units import format_bytes
from costsim.device.base import Named, Part, mistakes, refuse
from costsim.device.interval import Interval
from costsim.device.quantity import (
    Address,
    Bytes,
    BytesPerSecond,
    Joules,
    Quantity,
    Seconds,
    Share,
)
from costsim.device.target import ComputeTarget
from costsim.ir.step import BitWidths

SCHEMA = "costsim.device/1"

Text = Annotated[str, Field(min_length=1)]
Bits = Annotated[
    tuple[Literal[8, 16, 32, 64], ...],
    BeforeValidator(lambda given: tuple(given) if isinstance(given, list) else given),
    Field(min_length=1),
]


class Region(Part):
    """A memory: what kind, how large, and how much of it a training step may have.

    `largest_block` is the longest run of contiguous addresses, where that is less than `size`;
    `available` the share left after the operating system, stacks and code; `address` where it
    begins, on a device that is emulated. `read_bandwidth` and `write_bandwidth` are how fast data
    of an adaptation comes from flash or storage and goes there.
    """

    kind: Literal["ram", "flash", "storage"]
    size: Bytes
    address: Address | None = None
    largest_block: Bytes | None = None
    available: Share
    read_bandwidth: BytesPerSecond | None = None
    write_bandwidth: BytesPerSecond | None = None
    holds: Text

    @model_validator(mode="after")
    def _block_fits(self) -> "Region":
        if self.largest_block and self.largest_block.value > self.size.value:
            raise refuse(f"{self.largest_block} is more than size", "largest_block")
        return self

    @property
    def size_bytes(self) -> int:
        """The whole region."""
        return int(self.size.value)

    @property
    def largest_block_bytes(self) -> int:
        """The longest contiguous part of what is available."""
        block = self.size if self.largest_block is None else self.largest_block
        return min(int(block.value), self.available_bytes)

    @property
    def available_bytes(self) -> int:
        """What a training step may have."""
        return int(self.size.value * self.available.value)


class Placement(Part):
    """Where things are kept: weights that the plan leaves alone and that it updates, and images.

    `support_images` are those of a task, from which a device learns.
    """

    frozen_weights: Literal["ram", "flash"]
    updated_weights: Literal["ram"]
    support_images: Literal["ram", "flash", "storage"] = "ram"


class Swap(Part):
    """Where pages go that RAM cannot hold."""

    medium: Text
    size: Bytes
    read_bandwidth: BytesPerSecond
    write_bandwidth: BytesPerSecond


class BitWidthsSupported(Part):
    """Bits an element may have in kernels that exist for the device; the first is usual there."""

    weights: Bits
    activations: Bits
    gradients: Bits
    source: Text

    @property
    def usual(self) -> BitWidths:
        """The bit widths of a training step, where nobody asks for others."""
        return BitWidths(self.weights[0], self.activations[0], self.gradients[0], 32)


class TrainingBudget(Part):
    """The budgets recommended for a personal task on the device."""

    memory: Bytes
    accounting: Literal["peak", "arena", "paper", "tiny-training"]
    macs_share: Share
    latency: Seconds | None = None
    energy: Joules | None = None

    @property
    def memory_bytes(self) -> int:
        """Memory budget, in the accounting named beside it."""
        return int(self.memory.value)


class DeviceSpec(Part):
    """A board and everything a prediction about it needs, each number with its source."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    title: Text
    description: Text
    memory: Named[Region]
    placement: Placement
    swap: Swap | None = None
    bits: BitWidthsSupported
    targets: Named[ComputeTarget]
    default_target: Text
    training_budget: TrainingBudget
    references: Named[Seconds] = Field(default_factory=dict, validate_default=True)
    """Latencies that others measured on this board, to hold predictions against."""

    @model_validator(mode="after")
    def _complete(self) -> "DeviceSpec":
        kinds = {region.kind for region in self.memory.values()}
        if not self.ram_bytes:
            raise refuse("no region of kind ram has anything available", "memory")
        if self.placement.frozen_weights not in kinds:
            raise refuse(
                f"there is no {self.placement.frozen_weights} region", "placement.frozen_weights"
            )
        if self.placement.support_images not in kinds:
            raise refuse(
                f"there is no {self.placement.support_images} region", "placement.support_images"
            )
        if not self.targets:
            raise refuse("empty; at least one compute target is needed", "targets")
        if self.default_target not in self.targets:
            raise refuse(
                f"{self.default_target!r} is no target; allowed are {', '.join(self.targets)}",
                "default_target",
            )
        if self.training_budget.memory_bytes > self.ram_bytes:
            raise refuse(
                f"{self.training_budget.memory} is more than the {self.ram_bytes} bytes of RAM "
                "that training may have",
                "training_budget.memory",
            )
        return self

    def region(self, kind: str) -> Region | None:
        """The largest memory of a kind; None if there is none."""
        found = [region for region in self.memory.values() if region.kind == kind]
        return max(found, key=lambda region: region.available_bytes, default=None)

    @property
    def storage_bytes(self) -> int:
        """What an adaptation may keep on a card or a disk; 0 where there is none."""
        return self._bytes("storage")

    def _bytes(self, *kinds: str) -> int:
        return sum(r.available_bytes for r in self.memory.values() if r.kind in kinds)

    @property
    def ram_bytes(self) -> int:
        """RAM that training may have, over all regions."""
        return self._bytes("ram")

    @property
    def largest_block_bytes(self) -> int:
        """The largest contiguous RAM that training may have: what one arena must fit in."""
        return max(
            run[0].largest_block_bytes
            if len(run) == 1
            else sum(region.available_bytes for region in run)
            for run in self.ram_runs
        )

    @property
    def ram_runs(self) -> tuple[tuple[Region, ...], ...]:
        """RAM by what is contiguous: banks whose addresses touch are one, if training may have
        some of each and no file says that one of them is in pieces itself."""
        ram = [region for region in self.memory.values() if region.kind == "ram"]
        runs = [[region] for region in ram]
        runs.sort(key=lambda run: -1.0 if run[0].address is None else run[0].address.value)
        joined = runs[:1]
        for run in runs[1:]:
            if _touch(joined[-1][-1], run[0]):
                joined[-1] += run
            else:
                joined.append(run)
        return tuple(tuple(run) for run in joined)

    @property
    def flash_bytes(self) -> int:
        """Flash that weights may have; 0 on a device that keeps them in RAM."""
        return self._bytes("flash")

    def target(self, name: str | None = None) -> ComputeTarget:
        """The compute target `name`, or the default one; raises `InputError` if there is none."""
        chosen = self.default_target if name is None else name
        if chosen not in self.targets:
            raise InputError(
                f"device {self.name} has no target {chosen!r}; "
                f"{hint(chosen, self.targets)}allowed are {', '.join(self.targets)}"
            )
        return self.targets[chosen]

    def unlike(self, machine: Any, target: str | None = None) -> str:
        """What shows that `machine` is not this device and target; empty if nothing does.

        A `machine` has cpu, cores, threads and memory_bytes. A calibrated target is told by what it
        was calibrated on, any other by its threads and by the memory of the device, of which a
        system may keep up to a half to itself. Raises `InputError` for an unknown target.
        """
        chosen = self.target(target)
        if chosen.calibration is not None:
            return ", ".join(chosen.calibration.conditions.unlike(machine))
        found = []
        if machine.threads != (threads := int(chosen.threads.value)):
            found.append(f"threads {machine.threads}, not {threads}")
        memory = sum(int(r.size.value) for r in self.memory.values() if r.kind == "ram")
        if not memory / 2 <= machine.memory_bytes <= memory * 1.1:
            told = format_bytes(machine.memory_bytes)
            found.append(f"memory {told}, not {format_bytes(memory)}")
        return ", ".join(found)

    @property
    def is_microcontroller(self) -> bool:
        """Whether it runs C alone: frozen weights stay in the flash that the code is in."""
        return self.placement.frozen_weights == "flash"

    def swap_seconds(
        self, peak_bytes: float, available_bytes: float | None = None, passes: int = 1
    ) -> Interval | None:
        """Seconds that swapping adds to a step of `peak_bytes`; None if it does not fit at all.

        A simple physical model: what RAM cannot hold is written out and read back once a pass.
        Real page replacement can do several times worse.
        `available_bytes` is the RAM for it, by default all that training may have.
        """
        available = self.ram_bytes if available_bytes is None else available_bytes
        excess = max(0.0, peak_bytes - available)
        if excess == 0:
            return Interval.exactly(0.0)
        if self.swap is None or excess > self.swap.size.value:
            return None
        read, write = self.swap.read_bandwidth.interval, self.swap.write_bandwidth.interval
        return Interval(
            *(
                passes * (excess / r + excess / w)
                for r, w in (
                    (read.value, write.value),
                    (read.high, write.high),
                    (read.low, write.low),
                )
            )
        )

    def quantities(self) -> Iterator[tuple[str, Quantity]]:
        """Every number of the device with its dotted key, in the order of the file."""
        return _quantities("", self)

    def provenance_counts(self) -> Mapping[str, int]:
        """How many numbers come from where."""
        return Counter(quantity.provenance for _, quantity in self.quantities())

    def to_json(self) -> dict[str, Any]:
        """The device as one JSON document, numbers in base units."""
        return {"schema": SCHEMA, **self.model_dump(mode="json", exclude_none=True)}

    @classmethod
    def from_json(cls, document: object, source: str = "device") -> "DeviceSpec":
        """The device in a parsed YAML or JSON document; `source` names it in errors.

        Raises `InputError`: one line with the source, the dotted key, what is wrong and what is
        allowed.
        """
        if not isinstance(document, dict):
            kind = "empty" if document is None else f"a {type(document).__name__}"
            raise InputError(f"{source}: is {kind}; a mapping with the keys of a device is needed")
        if (schema := document.get("schema", SCHEMA)) != SCHEMA:
            raise InputError(f"{source}: schema: {shown(schema)} is unknown; allowed is {SCHEMA}")
        try:
            return cls.model_validate({k: v for k, v in document.items() if k != "schema"})
        except ValidationError as error:
            raise Mistakes(source, mistakes(error, "device", _needed)) from error


def _touch(low: Region, high: Region) -> bool:
    """Whether `high` begins where `low` ends, and both are of use in one piece."""
    if low.address is None or high.address is None or low.largest_block or high.largest_block:
        return False
    usable = low.available_bytes and high.available_bytes
    return bool(usable) and low.address.value + low.size.value == high.address.value


def _quantities(key: str, node: object) -> Iterator[tuple[str, Quantity]]:
    if isinstance(node, Quantity):
        yield key, node
    elif isinstance(node, Part):
        for name in type(node).model_fields:
            yield from _quantities(f"{key}.{name}" if key else name, getattr(node, name))
    elif isinstance(node, Mapping):
        for name, item in node.items():
            yield from _quantities(f"{key}.{name}", item)


def _needed(loc: tuple[int | str, ...]) -> str:
    """What belongs at `loc`, found by walking the annotations."""
    kind: Any = DeviceSpec
    for part in loc:
        kind = _inside(kind, str(part))
    found = [kind, *getattr(kind, "__args__", ())]
    part_type = next((k for k in found if isinstance(k, type) and issubclass(k, Part)), None)
    if part_type is None:
        return "text" if str in found else "a value"
    if issubclass(part_type, Quantity):
        return (
            f"such as {part_type.example}, or better {{value: {part_type.example}, provenance: "
            "datasheet, source: 'where it says so'}"
        )
    return f"a mapping with {', '.join(part_type.model_fields)}"


def _inside(kind: Any, part: str) -> Any:
    options = [kind, *getattr(kind, "__args__", ())]
    for option in options:
        if isinstance(option, type) and issubclass(option, Part) and part in option.model_fields:
            return option.model_fields[part].annotation
    # A mapping of names: the type of its items.
    return options[-1]
