"""Where a microcontroller's memories are: the addresses and sizes of its device file.

    stack, then data, then the arena, in one region or in two

The stack is lowest and the arena last, so that too deep a stack and too large an arena both run
out of the memory instead of into one another.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from costsim.base.errors import InputError

if TYPE_CHECKING:  # the emulator's process knows maps alone, and starts in half the time
    from costsim.device.spec import DeviceSpec, Region


@dataclass(frozen=True, slots=True)
class Span:
    """Addresses `address` to `end`, the end excluded."""

    address: int
    size_bytes: int

    @property
    def end(self) -> int:
        """The first address after it."""
        return self.address + self.size_bytes

    def __contains__(self, address: int) -> bool:
        return self.address <= address < self.end


@dataclass(frozen=True, slots=True)
class MemoryMap:
    """The memories of a device that a firmware may use; everything else faults.

    `arena` is the RAM that the training step works in, `stack` the one with stack and data; they
    are the same on most devices. `others` are further RAM.
    """

    device: str
    flash: Span
    arena: Span
    stack: Span
    others: Mapping[str, Span] = field(default_factory=dict)

    @property
    def shared(self) -> bool:
        """Whether stack and arena are in one memory."""
        return self.arena == self.stack

    def ram(self) -> Iterator[Span]:
        """Every RAM, each once."""
        yield from dict.fromkeys((self.stack, self.arena, *self.others.values()))

    def limited(self, ram_bytes: int) -> "MemoryMap":
        """The same with only the first `ram_bytes` of the arena's RAM: no byte more is mapped."""
        arena = replace(self.arena, size_bytes=ram_bytes)
        return replace(self, arena=arena, stack=arena if self.shared else self.stack)

    def moved(self, flash: int, ram: int) -> "MemoryMap":
        """The same sizes at other addresses, for a board that has its memories elsewhere."""
        if not self.shared:
            raise InputError(f"device {self.device}: its RAM is in several places; one is needed")
        arena = replace(self.arena, address=ram)
        return MemoryMap(self.device, replace(self.flash, address=flash), arena, arena)


def memory_map(device: "DeviceSpec") -> MemoryMap:
    """The memory map in a device file.

    The arena is in the largest RAM with an address; stack and data where the file says that a RAM
    holds the `stack`, else beside the arena. Raises `InputError` for a device without flash or RAM
    that has an address.
    """
    placed = {name: region for name, region in device.memory.items() if region.address is not None}
    flash = [region for region in placed.values() if region.kind == "flash"]
    ram = {name: region for name, region in placed.items() if region.kind == "ram"}
    if not flash or not ram:
        raise InputError(
            f"device {device.name}: memory: one region of kind flash and one of kind ram with an "
            "address are needed to emulate it, as in devices/stm32f746.yaml"
        )
    usable = {name: region for name, region in ram.items() if region.available_bytes} or ram
    arena = max(usable, key=lambda name: _block_bytes(device, usable[name]))
    stack = next((name for name, r in usable.items() if "stack" in r.holds), arena)
    run = next(run for run in device.ram_runs if ram[arena] in run)
    apart = ram[stack] not in run
    return MemoryMap(
        device.name,
        _span(max(flash, key=lambda region: region.size_bytes)),
        _span(*run),
        _span(ram[stack]) if apart else _span(*run),
        {
            name: _span(region)
            for name, region in ram.items()
            if region not in run and not (apart and name == stack)
        },
    )


def _block_bytes(device: "DeviceSpec", region: "Region") -> int:
    """The contiguous bytes that a bank is part of."""
    run = next(run for run in device.ram_runs if region in run)
    return sum(one.available_bytes for one in run) if run[1:] else region.largest_block_bytes


def _span(*run: "Region") -> Span:
    """Banks that touch, as one."""
    assert run[0].address is not None
    return Span(int(run[0].address.value), sum(region.size_bytes for region in run))
