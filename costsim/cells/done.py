"""How far a run has come."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Done:
    """Cells of this run, and seconds since it began."""

    done: int
    total: int
    seconds: float

    @property
    def remaining_s(self) -> float | None:
        """Seconds that are left at this rate; None while nothing is done."""
        return self.seconds * (self.total - self.done) / self.done if self.done else None
