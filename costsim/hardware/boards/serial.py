"""A board on a serial line, flashed with the firmware of a plan."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from costsim.base.errors import InputError, shown
from costsim.base.units import parse_count
from costsim.c.emulation.build import Firmware
from costsim.c.emulation.lines import Line, SerialLine
from costsim.c.emulation.memory_map import MemoryMap
from costsim.hardware.boards.firmware import FirmwareChoices
from costsim.hardware.boards.line import LineSession, write_project
from costsim.hardware.targets.base import How, Target, TargetOptions, Watch, refuse_parameters
from costsim.hardware.targets.job import Job

BAUD = 115_200


@dataclass(frozen=True)
class SerialTarget(Target):
    """A board on the serial line `device`.

    `firmware` is a folder that the firmware's sources are written to, to be built with the board's
    own UART and flashed.
    """

    device: str
    baud: int = BAUD
    firmware: Path | None = None
    choices: FirmwareChoices = field(default_factory=FirmwareChoices)
    options: TargetOptions = field(default_factory=TargetOptions)
    how: ClassVar[How] = "measured"
    own_bits: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """`serial:/dev/ttyACM0`, with the parameters that were given."""
        given = self.choices.given.removeprefix("?").split("&") if self.choices.given else []
        given += [f"baud={self.baud}"] if self.baud != BAUD else []
        given += [f"firmware={self.firmware}"] if self.firmware is not None else []
        return f"serial:{self.device}" + (f"?{'&'.join(given)}" if given else "")

    @classmethod
    def parse(
        cls, place: str, parameters: Mapping[str, str], options: TargetOptions
    ) -> "SerialTarget":
        """See `Target.parse`: the place is the line's device file."""
        if not place:
            raise InputError("target 'serial:': a line is needed, such as serial:/dev/ttyACM0")
        name = f"serial:{place}"
        refuse_parameters(name, parameters, (*FirmwareChoices.NAMES, "baud", "firmware"))
        given = parameters.get("baud", str(BAUD))
        baud = parse_count(given, least=1)
        if baud is None:
            raise InputError(
                f"target {shown(name)}: baud {shown(given)}; a whole number above 0 is needed"
            )
        folder = parameters.get("firmware")
        return cls(
            place,
            baud,
            None if folder is None else Path(folder),
            FirmwareChoices.parse(name, parameters),
            options,
        )

    def session(self, watch: Watch) -> "SerialSession":
        """See `Target.session`."""
        return SerialSession(self, watch)


class SerialSession(LineSession):
    """The line of a board."""

    timed = True

    def __init__(self, target: SerialTarget, watch: Watch) -> None:
        super().__init__(target, watch, target.choices, target.options)
        self.place, self.baud, self.folder = target.device, target.baud, target.firmware

    def board_memory(self, memory: MemoryMap) -> MemoryMap:
        """See `LineSession.board_memory`."""
        return memory

    def ship(self, job: Job) -> None:
        """Build the firmware, and write its sources where they are wanted."""
        super().ship(job)
        if self.folder is not None and self.firmware is not None:
            names = write_project(self.folder, self.firmware, self.sources)
            self.watch.warn(
                f"{len(names)} files of the firmware are in {self.folder}: put the board's UART "
                "in the place of uart_cmsdk.c, build and flash"
            )

    def open_line(self, firmware: Firmware) -> Line:
        """Open the port."""
        return SerialLine(self.place, self.baud)
