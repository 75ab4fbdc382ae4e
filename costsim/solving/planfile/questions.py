"""What a plan file says of questions beyond the plan: why it is what it is, and what was sought."""

from typing import Annotated, Literal, TypeAlias

from costsim.device.base import Named
from costsim.solving.planfile.records import Amount, Count, Name, Number
from costsim.solving.planfile.values import Listed, Record


class LimitPriceRecord(Record):
    """What more of one limit would bring; see `costsim.solving.explain.LimitPrice`."""

    limit: Name
    allowed: Number
    slack: bool
    more: Number | None
    rise: Amount | None
    proven: bool
    sentence: Name


class LeftOutRecord(Record):
    """A layer that is not updated, and why; see `costsim.solving.explain.LeftOut`."""

    layer: Name
    why: Literal["does not fit", "no gain", "overlooked", "worth less"]
    share: Amount
    breaks: Annotated[tuple[Name, ...], Listed]
    takes: Named[float]
    loss: Amount | None
    proven: bool
    sentence: Name


class RelaxationRecord(Record):
    """The least of one limit that would do; see `costsim.solving.explain.Relaxation`."""

    limit: Name
    allowed: Number
    least: Number | None
    sentence: Name


class ExplanationRecord(Record):
    """Why the plan is what it is; see `costsim.solving.explain.Explanation`."""

    optimum: Amount | None
    missed: Amount | None
    proven: bool
    limits: Annotated[tuple[LimitPriceRecord, ...], Listed]
    left_out: Annotated[tuple[LeftOutRecord, ...], Listed]
    relaxations: Annotated[tuple[RelaxationRecord, ...], Listed]


class CandidatesRecord(Record):
    """What of the model could be chosen, where that is not all: what a person or its author said.

    Of the layers those alone that match one of `layers`, and none of `exclude`;
    `frozen_parameters` elements belong to parameters that the model's author froze.
    """

    layers: Annotated[tuple[Name, ...], Listed] = ()
    exclude: Annotated[tuple[Name, ...], Listed] = ()
    frozen_parameters: Count = 0


Sought: TypeAlias = Literal["memory", "macs", "latency", "batch", "resolution", "device"]


class SoughtRecord(Record):
    """What was planned backwards: the value found (None: none does) and the share it reaches.

    Shares are of the gain of updating every channel of every inspected layer. `value` is in bytes,
    MACs, seconds, samples or pixels, or the name of a device. `proven`: nothing less, or no more
    work, would do.
    """

    what: Sought
    share: Amount
    value: Number | Name | None
    reached: Amount
    proven: bool
    sentence: Name
