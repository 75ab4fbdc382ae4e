"""Probes: small training steps of made-up networks, whose operations are timed one by one.

A kernel timed alone, over and over, finds its operands in the cache and the processor's branches
learnt; in a step it finds what the operations before it left. So the micro-kernels of a
calibration are operations in their place: blocks of a few layers as mobile networks, residual
networks and transformers have them, with a random plan, forward to update. A probe is named by its
family, a number and a batch size, which say everything about it.
"""

import random
from dataclasses import dataclass
from functools import lru_cache

from costsim.base.errors import InputError, shown
from costsim.base.units import parse_count
from costsim.hardware.calibration.families import FAMILIES, Writer
from costsim.ir.graph import LayerGraph
from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.ir.program import TrainingProgram, compile_program
from costsim.ir.step import TrainingStep

BATCHES = (1, 1, 1, 2, 4, 8, 8, 16)

_WHOLE = "-whole"


@dataclass(frozen=True, slots=True)
class Probe:
    """The step number `number` of a family; `whole` is as deep as a real network."""

    family: str
    number: int
    batch: int
    whole: bool = False

    @property
    def name(self) -> str:
        """As `parse_probe` reads it."""
        return f"{self.family}-{self.number}-b{self.batch}" + _WHOLE * self.whole

    def program(self) -> TrainingProgram:
        """The step, compiled; the same each time. Raises `InputError` for an unknown family."""
        return _compiled(self)


@lru_cache(maxsize=512)
def _compiled(probe: Probe) -> TrainingProgram:
    """A program is asked for whenever readings of it are looked at."""
    if probe.family not in FAMILIES:
        raise InputError(f"probe family {probe.family!r}; known are {', '.join(FAMILIES)}")
    rng = random.Random(probe.name)
    graph = FAMILIES[probe.family](Writer(probe.batch), rng, probe.whole)
    step = TrainingStep(
        batch=probe.batch,
        optimizer=rng.choice(("sgd", "momentum", "adam", "adam")),
        update=rng.choice(("immediate", "deferred")),
    )
    plan = deep_plan if probe.family == "assorted" else random_plan
    return compile_program(graph, plan(graph, rng), step)


def parse_probe(name: str) -> Probe:
    """The probe called `name`; raises `InputError`."""
    whole = name.endswith(_WHOLE)
    family, _, rest = name.removesuffix(_WHOLE).partition("-")
    number, _, batch = rest.partition("-b")
    found, samples = parse_count(number), parse_count(batch, least=1)
    if family not in FAMILIES or found is None or samples is None:
        raise InputError(f"probe {shown(name)} is unknown; one is called like 'mobile-3-b8'")
    return Probe(family, found, samples, whole)


def candidates(count: int) -> list[Probe]:
    """The first `count` probes: families by turns, most of them of convolutional networks."""
    turns = ("mobile", "residual", "mobile", "mobile", "residual", "attention")
    found = []
    for number in range(count):
        rng = random.Random(f"candidate {number}")
        found.append(Probe(turns[number % len(turns)], number, rng.choice(BATCHES)))
    return found


def assorted() -> list[Probe]:
    """Steps with every kind of operator that the candidates lack; a calibration runs some."""
    return [Probe("assorted", number, batch) for number, batch in enumerate((1, 8, 2, 16, 1, 4))]


def references() -> list[Probe]:
    """Steps as deep as real ones, which a calibration should predict well: never run."""
    return [
        Probe(family, number, batch, whole=True)
        for number in range(3)
        for family in ("mobile", "residual")
        for batch in (1, 8)
    ] + [Probe("attention", 0, 1, whole=True)]


def checks() -> list[Probe]:
    """Steps as deep as real ones, by which a calibration finds out how far off it is."""
    return [
        Probe(family, 100 + number, batch, whole=True)
        for number in range(4)
        for family, batch in (("mobile", 1), ("residual", 8), ("mobile", 8), ("residual", 1))
    ]


def random_plan(graph: LayerGraph, rng: random.Random) -> UpdatePlan:
    """Some channels of some of the last layers, some biases; never nothing."""
    names = [name for name in graph.layers if graph.selectable_channels(name, "output")]
    subsets, biases = [], set()
    for name in names[-rng.randint(1, len(names)) :]:
        if rng.random() < 0.6:
            size = graph.selectable_channels(name, "output")
            taken = size if rng.random() < 0.3 else rng.randint(1, size)
            scattered = rng.random() < 0.7
            chosen = sorted(rng.sample(range(size), taken)) if scattered else range(taken)
            subsets.append(ChannelSubset(name, "output", tuple(chosen)))
        if graph.layers[name].bias is not None and rng.random() < 0.4:
            biases.add(name)
    if not subsets:
        subsets.append(ChannelSubset(names[-1], "output", (0,)))
    return UpdatePlan(tuple(subsets), frozenset(biases))


def deep_plan(graph: LayerGraph, rng: random.Random) -> UpdatePlan:
    """Some channels of every layer and every bias: the gradient of everything is needed."""
    subsets = []
    for name in graph.layers:
        if size := graph.selectable_channels(name, "output"):
            chosen = sorted(rng.sample(range(size), rng.randint(1, size)))
            subsets.append(ChannelSubset(name, "output", tuple(chosen)))
    biases = {name for name, layer in graph.layers.items() if layer.bias is not None}
    return UpdatePlan(tuple(subsets), frozenset(biases))


YARDSTICK = Probe("mobile", 1_000_024, 1)
"""Run between all others: what a change of the machine's speed is seen by."""
