"""How far a run has come."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Done:
    """Cells of this run, seconds since it began, and how many cells other runs are at."""

    done: int
    total: int
    seconds: float
    elsewhere: int = 0

    @property
    def remaining_s(self) -> float | None:
        """Seconds that are left at this rate; None while nothing is done."""
        return self.seconds * (self.total - self.done) / self.done if self.done else None
