"""Every combination of counts: the oracle for small problems."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from costsim.base.errors import InputError
from costsim.problem.problem import Problem
from costsim.problem.solution import Answer, Status


@dataclass(frozen=True, slots=True)
class BruteForce:
    """Price all selections and take the best; refuses problems with more than `most`."""

    name: ClassVar[str] = "brute-force"

    most: int = 1_000_000

    def __call__(self, problem: Problem) -> Answer:
        sizes = [candidate.size + 1 for candidate in problem.candidates]
        total = math.prod(sizes)
        if total > self.most:
            raise InputError(
                f"solver brute-force: {total:.1e} plans; it takes up to {self.most:.0e}"
            )
        selections = np.indices(sizes).reshape(len(sizes), total).T[1:]
        allowed = selections[problem.fits(selections)]
        if not len(allowed):
            return Answer(None, Status.INFEASIBLE)
        gains = problem.gains(allowed)
        best = int(np.argmax(gains))
        return Answer(problem.plan(allowed[best]), Status.OPTIMAL, float(gains[best]))
