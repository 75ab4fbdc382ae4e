"""The adaptation program: everything that happens on the device from a task's images to an answer.

    scoring · caching · (class means, training)* · answering

Each phase is a program of its own, made by the same schedule and compiler as a training step, and
is run so many times. Buffers that outlive a run stand beside the programs, with the place they are
in and the phases they are live in: the support images, what the frozen part computed of them, the
class means, the scores, the updated weights and the state of their optimizer.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Literal, TypeAlias

from costsim.base.errors import InputError
from costsim.ir.cuts import between, cuts, last_frozen_cut, updated_layers
from costsim.ir.graph import LayerGraph
from costsim.ir.operators import UpdateKind, elements
from costsim.ir.plan import UpdatePlan
from costsim.ir.program.compile import compile_program
from costsim.ir.program.program import TrainingProgram
from costsim.ir.program.schedule import Category
from costsim.ir.program.scoring import FISHER_WORK, ScoringWork, compile_scoring
from costsim.ir.program.timeline import memory_timeline
from costsim.ir.recipe import Recipe
from costsim.ir.step import BitWidths, TrainingStep

Place: TypeAlias = Literal["ram", "flash", "storage"]

PIXEL_BITS = 8
"""Of an image as a camera gives it and a device keeps it, an element of its input."""

SCORE_BITS = 32

SUM_BITS = 32
"""Of a class mean where features are narrower: what is summed up needs more."""


def class_means_bytes(classes: int, features: int, bits: BitWidths) -> int:
    """Bytes of a mean for each class."""
    width = bits.activations if bits.activations >= 16 else SUM_BITS
    return classes * features * width // 8


class Phase(StrEnum):
    """What is being done; in the order in which the phases begin."""

    SCORING = "scoring"
    CACHING = "caching"
    MEANS = "class means"
    TRAINING = "training"
    ANSWERING = "answering"


@dataclass(frozen=True, slots=True)
class Task:
    """What a recipe is for: so many support images of so many classes."""

    samples: int
    ways: int

    def __post_init__(self) -> None:
        for name in ("samples", "ways"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; at least 1 is needed")


@dataclass(frozen=True, slots=True)
class Scored:
    """What is scored before anything is chosen: which layers, along which axes, and by what."""

    layers: tuple[str, ...]
    axes: tuple[UpdateKind, ...] = ("output",)
    work: ScoringWork = FISHER_WORK


@dataclass(frozen=True)
class PhaseProgram:
    """One phase: its program, and how often it is run.

    `rounds`: what scoring does with every sample, so often; see `ScoringWork`. `read_bytes` and
    `written_bytes` are those that all runs together fetch from and put into places other than RAM.
    """

    phase: Phase
    program: TrainingProgram
    times: int
    rounds: int = 1
    read_bytes: Mapping[Place, int] = field(default_factory=lambda: MappingProxyType({}))
    written_bytes: Mapping[Place, int] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class LastingBuffer:
    """Bytes in one place that outlive a run, and the phases in which they are live.

    Of these, the programs of `counted_in` have the same bytes among their own buffers.
    """

    name: str
    place: Place
    bytes: int
    phases: frozenset[Phase]
    counted_in: frozenset[Phase] = frozenset()


@dataclass(frozen=True)
class AdaptationProgram:
    """All that is done for one task by one plan and one recipe."""

    graph: LayerGraph
    plan: UpdatePlan
    recipe: Recipe
    task: Task
    phases: tuple[PhaseProgram, ...]
    lasting: tuple[LastingBuffer, ...]

    def lasting_bytes(self, phase: Phase, place: Place = "ram") -> int:
        """Of what outlives runs, what is live in a phase and not counted by its program."""
        return sum(
            buffer.bytes
            for buffer in self.lasting
            if buffer.place == place and phase in buffer.phases - buffer.counted_in
        )

    def peak_bytes(self, phase: PhaseProgram) -> int:
        """The most bytes of RAM that are live in a phase; frozen weights stand apart."""
        return memory_timeline(phase.program).peak_bytes + self.lasting_bytes(phase.phase)

    @property
    def weight_bytes(self) -> int:
        """All weights, as an answer reads them."""
        return self[Phase.ANSWERING].program.bytes_of(Category.FROZEN_WEIGHTS)

    @cached_property
    def peak_phase(self) -> PhaseProgram:
        """The phase that needs most."""
        return max(self.phases, key=self.peak_bytes)

    def stored_bytes(self, place: Place) -> int:
        """The most bytes that lie in a place at once, RAM apart."""
        return max((self.lasting_bytes(one.phase, place) for one in self.phases), default=0)

    def __getitem__(self, phase: Phase) -> PhaseProgram:
        return next(one for one in self.phases if one.phase is phase)


def compile_adaptation(
    graph: LayerGraph,
    plan: UpdatePlan,
    recipe: Recipe,
    task: Task,
    *,
    scored: Scored | None = None,
    images_in: Place = "ram",
    step: TrainingStep | None = None,
    forward_only: bool = False,
) -> AdaptationProgram:
    """The program of adapting `graph`, traced at the samples of a pass, to `task`.

    `scored` is what the device scores before it chooses; None where nothing is. The support images
    lie in `images_in`, `PIXEL_BITS` an element. `step` is one optimizer step, by default that of
    the recipe: over all images that an iteration shows. Where it is over fewer, an iteration is
    as many steps as its images take. With `forward_only` training is its forward passes, whatever
    the plan: what updates add to a step is in its cost table.

    Raises `InputError` for a cut that is none or lies behind something that is trained.
    """
    if step is None:
        step = step_of(graph, recipe, task)
    compiler = _Compiler(graph, plan, recipe, task, images_in, step, forward_only)
    return compiler.compile(scored)


def step_of(graph: LayerGraph, recipe: Recipe, task: Task) -> TrainingStep:
    """One optimizer step over all images that an iteration of the recipe shows, in whole passes."""
    shown = -(-recipe.images_a_step(task.samples) // graph.batch) * graph.batch
    return TrainingStep(shown, graph.batch if shown > graph.batch else None, recipe.optimizer)


def image_bytes(graph: LayerGraph) -> int:
    """Of one image where it is kept."""
    return (elements(graph[graph.input].shape[1:]) * PIXEL_BITS + 7) // 8


def value_bytes(graph: LayerGraph, cut: str, bits: BitWidths) -> int:
    """Of the value at `cut` for one image, where it is kept."""
    return (elements(graph[cut].shape[1:]) * bits.activations + 7) // 8


def values_kept(recipe: Recipe, task: Task) -> int:
    """How many values a cache holds: of every image as it is, and of every changed copy."""
    return task.samples * (1 + (recipe.drawn_copies if recipe.augment else 0))


@dataclass
class _Compiler:
    graph: LayerGraph
    plan: UpdatePlan
    recipe: Recipe
    task: Task
    images_in: Place
    step: TrainingStep
    forward_only: bool

    def __post_init__(self) -> None:
        self.bits = self.step.bits
        self.cut = self.recipe.cut
        self.cached: Place | None = None
        if self.recipe.cut is not None:
            check_cut(self.graph, self.plan, self.recipe.cut)
            self.cached = "ram" if self.recipe.cache_in == "ram" else "storage"
        self.trains = self.forward_only or bool(self.plan.subsets or self.plan.biases)

    def compile(self, scored: Scored | None) -> AdaptationProgram:
        phases: list[PhaseProgram] = []
        if scored is not None and scored.layers:
            phases.append(self._scoring(scored))
        if self.cut is not None:
            phases.append(self._caching(self.cut))
        if self.recipe.loss == "prototype":
            phases.append(self._means())
        if self.trains:
            phases.append(self._training())
        phases.append(self._answering())
        return AdaptationProgram(
            self.graph, self.plan, self.recipe, self.task, tuple(phases),
            self._lasting(phases, scored),
        )  # fmt: skip

    # What is counted.

    @property
    def image_bytes(self) -> int:
        """Of one image where it is kept."""
        return image_bytes(self.graph)

    @property
    def value_bytes(self) -> int:
        """Of the value at the cut for one image."""
        assert self.cut is not None
        return value_bytes(self.graph, self.cut, self.bits)

    @property
    def values(self) -> int:
        """How many values are cached: of every image as it is, and of every changed copy."""
        return values_kept(self.recipe, self.task)

    @cached_property
    def after(self) -> LayerGraph:
        """What is run in every iteration."""
        return self.graph if self.cut is None else between(self.graph, self.cut)

    def _passes(self, samples: int) -> int:
        return -(-samples // self.graph.batch)

    def _from(self, place: Place | None, size: int) -> Mapping[Place, int]:
        return MappingProxyType({} if place in (None, "ram") or not size else {place: size})

    def _fetched(self, samples: int) -> Mapping[Place, int]:
        """What so many passages of a sample into an iteration fetch."""
        if self.cached is not None:
            return self._from(self.cached, samples * self.value_bytes)
        return self._from(self.images_in, samples * self.image_bytes)

    def _forward(self, graph: LayerGraph) -> TrainingProgram:
        return _forward_program(graph, TrainingStep(graph.batch, bits=self.bits))

    # The phases.

    def _scoring(self, scored: Scored) -> PhaseProgram:
        program = _scoring_program(self.graph, self.step, scored.layers, scored.work, scored.axes)
        return PhaseProgram(
            Phase.SCORING,
            program,
            self._passes(self.task.samples),
            scored.work.rounds,
            self._from(self.images_in, self.task.samples * self.image_bytes),
        )

    def _caching(self, cut: str) -> PhaseProgram:
        return PhaseProgram(
            Phase.CACHING,
            self._forward(between(self.graph, self.graph.input, cut)),
            self._passes(self.values),
            read_bytes=self._from(self.images_in, self.values * self.image_bytes),
            written_bytes=self._from(self.cached, self.values * self.value_bytes),
        )

    def _means(self) -> PhaseProgram:
        """As often as the recipe says while training, and of the trained network."""
        taken = (self.recipe.means_taken() if self.trains else 0) + 1
        return PhaseProgram(
            Phase.MEANS,
            self._forward(self.after),
            taken * self._passes(self.task.samples),
            read_bytes=self._fetched(taken * self.task.samples),
        )

    def _training(self) -> PhaseProgram:
        times = self.recipe.steps(self.task.samples, self.step.batch)
        fetched = self._fetched(times * self.step.batch)
        if self.forward_only:
            program, times = self._forward(self.after), times * self.step.passes
        else:
            program = _training_program(self.after, self.plan, self._step_after())
        return PhaseProgram(Phase.TRAINING, program, times, read_bytes=fetched)

    def _step_after(self) -> TrainingStep:
        """The step, of which what is computed a second time lies behind the cut."""
        left = {call.name for call in self.after.calls} - {self.after.input}
        return replace(
            self.step, recompute=tuple(name for name in self.step.recompute if name in left)
        )

    def _answering(self) -> PhaseProgram:
        """One pass, of as many images as the graph was traced for."""
        return PhaseProgram(Phase.ANSWERING, self._forward(self.graph), 1)

    # What outlives a run.

    def _lasting(
        self, phases: list[PhaseProgram], scored: Scored | None
    ) -> tuple[LastingBuffer, ...]:
        readers = {Phase.SCORING, Phase.CACHING}
        if self.cut is None:
            readers |= {Phase.MEANS, Phase.TRAINING}
        features = elements(self.graph[self.graph.output].shape[1:])
        found = [
            LastingBuffer(
                "support images",
                self.images_in,
                self.task.samples * self.image_bytes,
                frozenset(readers),
            ),
        ]
        if self.recipe.loss == "prototype":
            found.append(
                LastingBuffer(
                    "class means",
                    "ram",
                    class_means_bytes(self.task.ways, features, self.bits),
                    frozenset({Phase.MEANS, Phase.TRAINING, Phase.ANSWERING}),
                )
            )
        if self.cached is not None:
            found.append(
                LastingBuffer(
                    "cached values",
                    self.cached,
                    self.values * self.value_bytes,
                    frozenset({Phase.CACHING, Phase.MEANS, Phase.TRAINING}),
                )
            )
        if scored is not None and scored.layers:
            count = sum(
                self.graph.selectable(layer, axis)
                for layer in scored.layers
                for axis in scored.axes
            )
            found.append(
                LastingBuffer("scores", "ram", count * SCORE_BITS // 8, frozenset({Phase.SCORING}))
            )
        training = next((one.program for one in phases if one.phase is Phase.TRAINING), None)
        if training is not None and not self.forward_only:
            found += _trained(training)
        return tuple(found)


@lru_cache(maxsize=256)
def _forward_program(graph: LayerGraph, step: TrainingStep) -> TrainingProgram:
    """Kept by value: the same for every cut and cache that are compared."""
    return compile_program(graph, UpdatePlan(), step)


@lru_cache(maxsize=64)
def _training_program(graph: LayerGraph, plan: UpdatePlan, step: TrainingStep) -> TrainingProgram:
    """Likewise."""
    return compile_program(graph, plan, step)


@lru_cache(maxsize=16)
def _scoring_program(
    graph: LayerGraph,
    step: TrainingStep,
    layers: tuple[str, ...],
    work: ScoringWork,
    axes: tuple[UpdateKind, ...],
) -> TrainingProgram:
    """Likewise."""
    return compile_scoring(graph, step, layers, work, axes)


def _trained(training: TrainingProgram) -> list[LastingBuffer]:
    """What an iteration leaves behind for the next one, and for the answer."""
    own = frozenset({Phase.TRAINING})
    between_steps = frozenset({Phase.MEANS, Phase.TRAINING})
    return [
        LastingBuffer(
            "updated weights",
            "ram",
            training.bytes_of(Category.UPDATED_WEIGHTS),
            between_steps | {Phase.ANSWERING},
            own,
        ),
        LastingBuffer(
            "optimizer state", "ram", training.bytes_of(Category.OPTIMIZER), between_steps, own
        ),
    ]


def frozen_cuts(graph: LayerGraph, plan_layers: Collection[str]) -> tuple[str, ...]:
    """The cuts before which none of these layers is computed, in order, the input left out."""
    order = cuts(graph)
    last = last_frozen_cut(graph, plan_layers)
    return order[1 : order.index(last) + 1]


def check_cut(graph: LayerGraph, plan: UpdatePlan, cut: str) -> None:
    """Raise `InputError` for a cut that the graph has not, or before which the plan trains."""
    order = cuts(graph)
    if cut not in order:
        raise InputError(f"cut {cut!r} is no value through which all passes")
    if cut != graph.input and cut not in frozen_cuts(graph, updated_layers(plan)):
        raise InputError(f"cut {cut!r} lies behind a layer that the plan trains")
