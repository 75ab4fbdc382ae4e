"""What an explanation says: values, each with a sentence for a person."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from costsim.base.units import format_percent
from costsim.problem.budget import at_least, describe, with_unit

TIE = 1e-9
"""Gains that differ by less, relatively, are equal: what the proofs are accurate to."""

_NO_SCORE = {
    "channels": "every channel's score",
    "bias": "the score of its bias",
    "channels and bias": "the score of its bias and of every channel",
}

_MORE = {
    "memory_bytes": "more memory",
    "working_bytes": "more memory on the device",
    "macs": "more in the backward pass",
    "latency_s": "more for a step",
    "energy_j": "more for a step",
}


@dataclass(frozen=True, slots=True)
class LimitPrice:
    """What more of one limit would bring, the others held.

    `slack`: any amount more brings nothing. Otherwise `more` of it, in bytes, MACs, seconds or
    joules, raises the greatest gain by the share `rise` of all gain; None if no amount tried did.
    `proven`: the optima behind it were all proven; otherwise `rise` is what was found in the time.
    """

    limit: str
    allowed: float
    slack: bool
    more: float | None
    rise: float | None
    proven: bool

    @property
    def sentence(self) -> str:
        """For a person."""
        budget = f"The limit on {describe(self.limit, self.allowed).removesuffix(self._allowed)}"
        if self.slack:
            return f"{budget}is slack: more than {self._allowed} would bring nothing."
        if self.more is None or self.rise is None:
            return f"{budget}binds, but no amount more that was tried raised the gain."
        rise = f"{'' if self.proven else 'at least '}{format_percent(self.rise)}"
        return f"{_more(self.limit, self.more)} than {self._allowed} would add {rise} of all gain."

    @property
    def _allowed(self) -> str:
        return with_unit(self.limit, self.allowed)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A layer of which the plan updates nothing that was scored, and why.

    `why` is `does not fit` (one channel alone breaks `breaks`), `no gain` (all scores are 0),
    `overlooked` (the proven optimum updates it) or `worth less`. `share` of the full gain is that
    of what was `scored`: its channels, its bias or both. `takes` is what its best channel, or if
    `bias_alone` its bias, costs on top of the optimum, by limit; the best plan that updates the
    layer at all has the share `loss` of all gain less than the optimum (`proven`, or at most so
    much).
    """

    layer: str
    why: str
    share: float
    breaks: tuple[str, ...] = ()
    takes: tuple[tuple[str, float], ...] = ()
    loss: float | None = None
    proven: bool = True
    scored: Literal["channels", "bias", "channels and bias"] = "channels"
    bias_alone: bool = False

    @property
    def sentence(self) -> str:
        """For a person."""
        only_bias = self.scored == "bias"
        held = f"its {self.scored} hold{'s' * only_bias} {format_percent(self.share)} of all gain"
        match self.why:
            case "no gain":
                return f"{self.layer}: {_NO_SCORE[self.scored]} is 0."
            case "does not fit":
                alone = ", ".join(describe(name, amount) for name, amount in self.takes)
                one = "its bias" if self.bias_alone else "one channel"
                return f"{self.layer}: does not fit; {one} alone takes {alone} ({held})."
            case "overlooked":
                return f"{self.layer}: the proven optimum updates it ({held})."
        extra = [_more(name, amount) for name, amount in self.takes if amount > 0]
        who = ", the best" if self.scored == "channels" else ", the best channel"
        if self.bias_alone:
            who = " and" if only_bias else ", the bias"
        takes = f"{who} takes {' and '.join(extra)}" if extra else ""
        loss = self.loss or 0.0
        if loss <= TIE:
            verdict = "a plan that updates it gains as much, not more"
        else:
            bound = "" if self.proven else "at most "
            verdict = (
                f"the best plan that updates it has {bound}{format_percent(loss)} of all gain less"
            )
        return f"{self.layer}: {held}{takes}; {verdict}."


@dataclass(frozen=True, slots=True)
class Relaxation:
    """The least of one limit, the others held, with which anything fits; None: no amount would."""

    limit: str
    allowed: float
    least: float | None

    @property
    def sentence(self) -> str:
        """For a person."""
        now = describe(self.limit, self.allowed)
        if self.least is None:
            return f"More than {now} would not do, however much."
        return f"At least {at_least(self.limit, self.least)} instead of {now} would do."


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a plan is what it is.

    `optimum` is the greatest gain of any plan within the budgets and `missed` the share of all gain
    by which the plan is below it; None where nothing fits. `relaxations` are empty where something
    does.
    """

    optimum: float | None
    missed: float | None
    proven: bool
    limits: tuple[LimitPrice, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    relaxations: tuple[Relaxation, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The `explanation` of a plan file."""
        document = asdict(self)
        for name in ("limits", "left_out", "relaxations"):
            document[name] = [
                asdict(entry) | {"sentence": entry.sentence} for entry in getattr(self, name)
            ]
        for entry in document["left_out"]:
            entry["takes"] = dict(entry["takes"])
            entry["breaks"] = list(entry["breaks"])
            del entry["scored"], entry["bias_alone"]  # the sentence says so
        return document


def _more(limit: str, amount: float) -> str:
    return f"{with_unit(limit, amount)} {_MORE[limit]}"
