"""What swapping costs: the bytes of a step that RAM cannot hold, in seconds and joules.

The model. At the fullest moment of a pass so many bytes are live that some of them, the *excess*,
are not in RAM. Live means that they will be read again, so each of them has been written to swap
before that moment and is read back after it: at least the excess goes out once and comes back once
in every pass, whatever the system evicts. A forward and a backward pass need no more than that, by
eviction of what was used least lately: the values kept first leave first and are read last, and by
then the backward pass has freed the room that they come back to. So a pass is priced at

    seconds = excess / write bandwidth + excess / read bandwidth

while nothing is computed, and at the power that the board draws then. This is an estimate, and its
value a lower bound: the bandwidths are those of long runs of pages, and their low ends, those of
single pages in no order, make the other end of the interval. Weights that are kept in RAM count as
live. No board was measured. What there is to hold it against are TinyTrain's minutes of full
training, which swaps, for three networks: the share of RAM in `devices/pi-zero-2.yaml` was fitted
to one of them, and nothing to the other two (`costsim reproduce paper-costs`).
"""

from dataclasses import dataclass

from costsim.device import DeviceSpec, Interval


@dataclass(frozen=True, slots=True)
class Swapping:
    """What swapping adds to a step.

    `excess_bytes` are those over RAM at the fullest moment of a pass: in each pass they are
    written once and read back once.
    """

    excess_bytes: int
    passes: int
    latency_s: Interval
    energy_j: Interval

    @property
    def moved_bytes(self) -> int:
        """Written and read in all passes."""
        return 2 * self.passes * self.excess_bytes


def swapping(
    device: DeviceSpec, needed_bytes: int, target: str | None = None, passes: int = 1
) -> Swapping | None:
    """What it adds to a step that has `needed_bytes` live at once in each of its `passes`.

    None where they fit neither in RAM nor in RAM and swap together. Raises `InputError` for a
    target that the device lacks.
    """
    seconds = device.swap_seconds(needed_bytes, device.largest_block_bytes, passes)
    if seconds is None:
        return None
    power = device.target(target).power.memory.interval
    excess = max(0, needed_bytes - device.largest_block_bytes)
    return Swapping(excess, passes, seconds, power * seconds)


def room_bytes(device: DeviceSpec, allowed_bytes: int | None, *, timed: bool = False) -> int:
    """The room that a step has for its buffers: RAM, and swap where a person allows more than RAM.

    `allowed_bytes` is the memory budget that was asked for, None where nobody asked: then nothing
    swaps. Nor does it where the step is `timed`, that is, has a budget in seconds or joules: those
    are of computing.
    """
    ram = device.largest_block_bytes
    if device.swap is None or allowed_bytes is None or allowed_bytes <= ram or timed:
        return ram
    return ram + int(device.swap.size.value)
