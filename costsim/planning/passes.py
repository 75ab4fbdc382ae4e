"""How samples go through the network in a step, chosen together with channels and recipe.

How many go at a time, and whether part of the forward pass is computed a second time instead of
being kept, changes no result but by rounding. So it is chosen by what it leaves: the greatest gain,
of equal gains the recipe that spares least, and of these the fewest seconds of the whole. More
samples at a time share each operation's overhead and each weight that is read, and take more
memory; a second pass over a segment takes less memory, and more MACs and seconds.

Of all pairs of the two those are left out that cannot be the answer: more samples than a forward
pass alone has room for, and a second pass where memory takes nothing from the gain.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from costsim.base.progress import Progress
from costsim.ir.graph import LayerGraph
from costsim.ir.plan import UpdatePlan
from costsim.ir.program import compile_program, even_cuts, memory_timeline
from costsim.ir.recipe import Recipe
from costsim.ir.step import TrainingStep
from costsim.planning.alternatives import Alternative
from costsim.planning.joint import JointAnswer, JointQuestion, choose_jointly
from costsim.planning.recipes import choose_cache
from costsim.planning.ways_of_adapting import Side
from costsim.pricing.accounting import OF_LIVE_BYTES
from costsim.pricing.micro_batch import GraphAt
from costsim.problem.budget import Budget
from costsim.problem.solution import Solver, Status
from costsim.solving.pareto import TIE

SEGMENTS = (1, 2, 3, 4)
"""Into how many parts of equal size a forward pass may be cut."""


@dataclass(frozen=True, slots=True)
class Passes:
    """So many samples at a time, and a forward pass in so many segments; 1 is kept whole."""

    micro_batch: int
    segments: int = 1


QuestionBy: TypeAlias = Callable[[Passes], JointQuestion]
"""What is asked of steps that are done so."""


@dataclass(frozen=True)
class PassesAnswer:
    """The answer, how its steps are done, and what its plan costs where they are done otherwise."""

    passes: Passes
    answer: JointAnswer
    alternatives: tuple[Alternative, ...]


@dataclass(frozen=True)
class Choices:
    """The ways of going through the network that there are, fewest samples first.

    `graph_at` gives the network at so many samples a pass.
    """

    micro_batches: tuple[int, ...]
    segments: tuple[int, ...]
    graph_at: GraphAt

    def segments_of(self, graph: LayerGraph) -> Iterator[int]:
        """Numbers of segments of which each cuts in other places than the one before."""
        before: tuple[str, ...] | None = None
        for count in self.segments:
            found = even_cuts(graph, count)
            if found != before:
                yield count
            before = found


def choose_passes(
    question_by: QuestionBy, choices: Choices, solver: Solver, progress: Progress | None = None
) -> PassesAnswer:
    """The best answer by all ways of going through the network; the first where there is none.

    Its status is that of all searches together: optimal where each was answered with a proof.
    """
    search = _Search(question_by, solver, progress)
    for micro_batch in choices.micro_batches:
        graph = choices.graph_at(micro_batch)
        if search.asked and not search.has_room(graph):
            break
        first, *more = choices.segments_of(graph)
        search.ask(Passes(micro_batch, first))
        if not more:
            continue
        most = search.most_by_memory(Passes(micro_batch, first))
        for segments in more:
            if search.reaches(Passes(micro_batch, first), most):
                break
            search.ask(Passes(micro_batch, segments), most)
    return search.best()


class _Search:
    def __init__(self, question_by: QuestionBy, solver: Solver, progress: Progress | None) -> None:
        self.question_by, self.solver, self.progress = question_by, solver, progress
        self.asked: dict[Passes, tuple[JointQuestion, JointAnswer]] = {}
        self.bounds: list[float | None] = []

    def ask(self, passes: Passes, most: float | None = None) -> None:
        """Answer one of them, which cannot gain more than `most`."""
        question = self.question_by(passes)
        answer = choose_jointly(question, self.solver, self.progress)
        self.asked[passes] = question, answer
        if answer.solution.status is not Status.INFEASIBLE:
            known = [one for one in (answer.solution.bound, most) if one is not None]
            self.bounds.append(min(known, default=None))

    def has_room(self, graph: LayerGraph) -> bool:
        """Whether a forward pass alone has, of so many samples; more of them take more."""
        question, _ = next(iter(self.asked.values()))
        problem = question.sides(question.recipe.image_interval).problem
        limit = _live_limit(problem.budget)
        step = TrainingStep(graph.batch, bits=problem.step.bits)
        program = compile_program(graph, UpdatePlan(), step)
        return limit is None or memory_timeline(program).peak_bytes <= limit

    def most_by_memory(self, passes: Passes) -> float | None:
        """What steps done so could gain with memory enough; None where nothing is proven of it.

        Computing a part a second time takes more of everything else, so that it gains no more.
        """
        question, _ = self.asked[passes]
        sides = question.sides
        free = replace(question, sides=lambda interval: _with_memory(sides(interval)))
        solution = choose_jointly(free, self.solver, self.progress).solution
        return 0.0 if solution.status is Status.INFEASIBLE else solution.bound

    def reaches(self, passes: Passes, most: float | None) -> bool:
        """Whether steps done so gain the most that there is."""
        gain = self.asked[passes][1].solution.objective
        return most is not None and (0.0 if gain is None else gain) >= most * (1 - TIE)

    def best(self) -> PassesAnswer:
        """Of those that were asked."""
        passes, (_, answer) = next(iter(self.asked.items()))
        for other, (_, found) in self.asked.items():
            if _is_better(found, answer):
                passes, answer = other, found
        if answer.solution.plan is None or answer.priced is None:
            return PassesAnswer(passes, answer, ())
        return PassesAnswer(passes, self._judged(answer), tuple(self._others(passes, answer)))

    def _judged(self, answer: JointAnswer) -> JointAnswer:
        """With the status of all searches, of which nothing gains more than the greatest bound."""
        solution = answer.solution
        assert solution.objective is not None
        bound = _greatest([solution.objective, *self.bounds])
        if bound is not None and bound <= solution.objective * (1 + TIE):
            best = replace(solution, status=Status.OPTIMAL, bound=solution.objective)
        else:
            stopped = Status.TIME_LIMIT in (one.solution.status for _, one in self.asked.values())
            status = Status.TIME_LIMIT if stopped else Status.FEASIBLE
            best = replace(solution, status=status, bound=bound)
        return replace(answer, solution=best)

    def _others(self, passes: Passes, answer: JointAnswer) -> Iterator[Alternative]:
        """The same plan by steps that are done otherwise in one respect and have room."""
        plan, priced = answer.solution.plan, answer.priced
        assert plan is not None
        assert priced is not None
        for other, (question, _) in self.asked.items():
            if (other.micro_batch == passes.micro_batch) == (other.segments == passes.segments):
                continue
            side = question.sides(priced.recipe.image_interval)
            if not side.problem.exceeded(plan):
                recipe = _as(priced.recipe, question.recipe)
                asked = replace(side.asked, plan=plan)
                cost = choose_cache(asked, recipe, question.caches).cost
                if other.segments == passes.segments:
                    yield Alternative("micro_batch", other.micro_batch, cost)
                else:
                    yield Alternative("recompute", other.segments, cost)


def _with_memory(side: Side) -> Side:
    """With no limit of memory."""
    budget = replace(side.problem.budget, memory_bytes=None, working_bytes=None)
    return Side(side.problem.within(budget), replace(side.asked, budget=budget))


def _greatest(bounds: Sequence[float | None]) -> float | None:
    """The greatest of them; None where one of them is none."""
    known = [bound for bound in bounds if bound is not None]
    return max(known) if len(known) == len(bounds) else None


def _as(chosen: Recipe, own: Recipe) -> Recipe:
    """A recipe that spares what `chosen` does, by steps of its own."""
    return replace(
        own,
        image_interval=chosen.image_interval,
        copies=chosen.copies,
        means_interval=chosen.means_interval,
    )


def _live_limit(budget: Budget) -> int | None:
    """The most live bytes that a budget allows."""
    limits = [budget.working_bytes]
    if budget.accounting in OF_LIVE_BYTES:
        limits.append(budget.memory_bytes)
    return min((limit for limit in limits if limit is not None), default=None)


def _is_better(one: JointAnswer, other: JointAnswer) -> bool:
    """By gain, then by how little the recipe spares, then by seconds of the whole."""
    if one.priced is None or one.solution.objective is None:
        return False
    if other.priced is None or other.solution.objective is None:
        return True
    gains = one.solution.objective, other.solution.objective
    if abs(gains[0] - gains[1]) > TIE * max(gains):
        return gains[0] > gains[1]
    spared = _spared(one.priced.recipe), _spared(other.priced.recipe)
    if spared[0] != spared[1]:
        return spared[0] < spared[1]
    return _seconds(one) < _seconds(other)


def _spared(recipe: Recipe) -> tuple[int, int, int]:
    return recipe.image_interval, -recipe.copies, recipe.means_interval


def _seconds(answer: JointAnswer) -> float:
    assert answer.priced is not None
    found = answer.priced.cost.latency_s
    return float("inf") if found is None else found.value
