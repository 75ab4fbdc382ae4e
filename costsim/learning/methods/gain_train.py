"""GainTrain: what a step would bring, not how much hangs on a channel; the proven best of it."""

from dataclasses import dataclass, field

from costsim.learning.adaptation.guard.base import Guard
from costsim.learning.adaptation.guard.shrinkage import Shrinkage
from costsim.learning.methods.tinytrain import TinyTrain
from costsim.problem.solution import Solver
from costsim.run.criteria.base import Criterion
from costsim.solvers.exact import Exact


@dataclass(frozen=True)
class GainTrain(TinyTrain):
    """TinyTrain with another gain, the exact solver, and a change that is shrunk.

    Fisher information says how far the loss hangs on a channel as it is; what training a channel
    brings is the fall of the loss along the optimizer's step (`costsim.run.criteria.StepGain`). Of
    the gains that were tried it and its first-order relatives predict best what plans of equal cost
    reach, if weakly; it was chosen on tasks apart from those that it is reported on
    (docs/accuracy.md). A quarter of the change is taken back after a training at three times
    TinyTrain's rate.
    """

    learning_rate: float = 0.003
    solver: Solver = field(default_factory=Exact)
    criterion: str | Criterion = "step_gain"
    guard: Guard | None = field(default_factory=Shrinkage)

    @property
    def name(self) -> str:
        """GainTrain, and in brackets what is not by default."""
        return self._named("GainTrain", solver="exact", criterion="step_gain")
