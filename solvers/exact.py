"""The proven optimum, at channel level, of any problem: cases, Lagrangian bounds, enumeration.

Let u_i say whether candidate i (a layer along an axis) is opened, k_i how many of its channels are
taken, best first, and G_i(k_i) their gain. Maximise sum_i G_i(k_i) subject to one row for each
limit, and one for each position of the step if the peak is limited (`resources`). Three facts make
that easy:

1. *The backward pass ends at one place.* The first opened candidate in the order of execution
   decides how far gradients reach, hence every clause of a chain. Enumerate it; where parallel
   branches leave a clause undecided, enumerate the first opened candidate among its causes in the
   same way (`cases`). What is left is separable: maximise sum_i G_i(k_i) with
   sum_i c_i(k_i) <= b, c_i(0) = 0.

2. *The Lagrangian bound is nearly attained.* For multipliers m >= 0

       L(m) = m b + sum_i max_k (G_i(k) - m c_i(k))

   bounds every gain. Its minimum is the value of the linear relaxation over convex hulls, in which
   no more classes than tight rows mix two options (`lagrangian`). Most cases fall at once below
   the best plan known. Where the mix is between opening a candidate and not, decide it.

3. *What is not ruled out is little.* With net_i(k) = G_i(k) - m c_i(k) and
   loss_i(k) = max_j net_i(j) - net_i(k),

       sum_i G_i(k_i)  =  L(m) - sum_i loss_i(k_i) - m (b - sum_i c_i(k_i)),

   so a gain of at least L(m) - D asks for losses and a price of empty room of at most D in all.
   Those selections are enumerated for growing D until there is one (`enumeration`, `search`), the
   classes that all rows cost alike as one class whose dominated selections are left out
   (`combined`): under loose budgets that is what makes a proof possible.

Nothing here assumes that c_i is linear or G_i concave. Proven means: to a relative 1e-10 of the
gain. Limits: a problem whose relaxation leaves a wide gap in many tight rows at once, or that has
many parallel branches, can take exponential time; the answer then says so, with its bound. Which of
several plans with equal gain is returned may depend on the processor's rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from costsim.pricing.table import Integers
from costsim.problem.problem import Problem
from costsim.problem.solution import ANY_GAIN, Aim, Answer, Clock, Deadline

from .enumeration import Enumeration
from .lagrangian import Bound, Relaxation
from .search import Search


@dataclass(frozen=True, slots=True)
class Exact:
    """Proves the optimum. Stopped by the time limit or Ctrl-C: the best plan so far, its bound.

    `clock` says by what the limit is counted.
    """

    name: ClassVar[str] = "exact"

    time_limit_s: float = 60.0
    clock: Clock = "processor"
    aim: Aim = ANY_GAIN

    def __call__(self, problem: Problem) -> Answer:
        deadline = Deadline.after(self.time_limit_s, self.clock)
        return Search(problem, deadline, _enumerate, self.aim).run()


def _enumerate(
    relaxation: Relaxation,
    bound: Bound,
    most: float,
    found: Callable[[Integers], float],
    tick: Callable[[], None],
) -> int:
    enumeration = Enumeration(relaxation, bound, most, found, tick)
    enumeration.run()
    return enumeration.states
