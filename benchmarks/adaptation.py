"""One adaptation from end to end, beside stock PyTorch fine-tuning all of the network.

A 10-way 5-shot task, 40 iterations over the same 8 changed copies of each image, Adam. Ours is what
`costsim adapt` does: score the channels, solve, compile, train, classify the queries. Stock is an
ordinary loop over the same images with `torch.optim.Adam` on every parameter, in channels-last
layout, with autograd; and, since that comparison alone would flatter, the same loop with the
gradients of only the layers that the plan touches, and that loop as a clever user writes it: what
lies before them is computed once for all copies, and the optimizer is fused. Threads and the order
of the images are the same, contenders take turns, and the ratio is that within a round, of
processor seconds: those of other work on the machine do not count. The share of the selection is of
seconds on the clock: on a network that has had tasks before, and on one that is fresh, as in
`costsim adapt`.

    python benchmarks/adaptation.py [--resolution 128] [--repeats 3] [--weights FILE]
"""

import argparse
import copy
import statistics
import sys
import time
from pathlib import Path

import torch
from execution import halves
from torch import Tensor
from torch.nn import functional

from costsim.data import FixedEpisode, digits, open_source, sample_episode
from costsim.device import load_device
from costsim.ir.recipe import Recipe
from costsim.learning.adaptation.one_task import adapt
from costsim.learning.adaptation.place import Place
from costsim.learning.adaptation.situation import Situation
from costsim.learning.methods import make_method
from costsim.learning.training.backbone import Backbone, load_backbone
from costsim.run.criteria.loss import prototypes

METHODS = ("LastLayer", "TinyTrain", "TinyTrain (exact)", "GainTrain", "FullTrain")
TARGET = 0.05
"""Of the adaptation's time, for the selection."""


def main() -> int:
    """Time the rounds and print the table."""
    options = _options()
    torch.set_num_threads(options.threads)

    def fresh() -> Backbone:
        return load_backbone(options.model, weights=options.weights, resolution=options.resolution)

    backbone = fresh()
    source = digits() if options.data is None else open_source(options.data)
    rule = FixedEpisode(options.ways, options.shots, 10)
    task = sample_episode(source, rule, seed=0, resolution=backbone.input_shape[1:])
    place = Place(load_device(options.device))
    settings = Recipe(iterations=options.iterations)
    rounds: list[dict[str, float]] = []
    shares: dict[str, list[float]] = {}
    fresh_shares: dict[str, list[float]] = {}
    for number in range(options.repeats + 1):  # the first round warms up
        seconds: dict[str, float] = {}
        touched: set[str] = set()
        for name in METHODS:
            situation = Situation(backbone, task, place, settings)
            started = time.process_time()
            outcome = adapt(situation, make_method(name))
            seconds[name] = time.process_time() - started
            shares.setdefault(name, []).append(
                outcome.selection_s / (outcome.selection_s + outcome.training_s)
            )
            if name == "TinyTrain":
                touched = set(outcome.choice.plan.by_layer)
            if outcome.choice.scored:
                selection = _first_selection(Situation(fresh(), task, place, settings), name)
                fresh_shares.setdefault(name, []).append(
                    selection / (selection + outcome.training_s)
                )
        situation = Situation(backbone, task, place, settings)
        seconds["stock, full"] = _stock(situation, None)
        seconds["stock, same layers"] = _stock(situation, touched)
        seconds["stock, same layers, cached"] = _stock(situation, touched, cached=True)
        if number:
            rounds.append(seconds)
        print(f"round {number} of {options.repeats}", file=sys.stderr)
    print(
        f"{options.model} at {options.resolution}x{options.resolution}, {options.ways} ways × "
        f"{options.shots} shots, {options.iterations} iterations, {options.threads} thread(s), "
        f"median of {options.repeats}\n"
    )
    print(
        f"{'':28s}{'seconds':>10s}{'stock full / this':>20s}{'cached / this':>16s}"
        f"{'selection':>12s}{'fresh':>8s}"
    )
    for name in rounds[0]:
        ratio, clever = (
            statistics.median(one[stock] / one[name] for one in rounds)
            for stock in ("stock, full", "stock, same layers, cached")
        )
        share = statistics.median(shares[name][1:]) if name in shares else None
        told = "" if share is None else f"{share:.1%}"
        if name in fresh_shares:
            told = f"{told:>12s}{statistics.median(fresh_shares[name][1:]):>8.1%}"
        print(
            f"{name:28s}{statistics.median(one[name] for one in rounds):>10.2f}{ratio:>20.2f}"
            f"{clever:>16.2f}{told:>12s}"
        )
    print()
    for name, found in fresh_shares.items():
        most = statistics.median(found[1:])
        verdict = "within" if most <= TARGET else "above"
        print(f"selection of {name}: {most:.1%} of the first adaptation, {verdict} {TARGET:.0%}")
    return 0


def _first_selection(situation: Situation, name: str) -> float:
    """Seconds to choose for the first task of a network, as `adapt` counts them."""
    method = make_method(name)
    situation.make_ready()
    method.prepare(situation)
    started, prefix = time.perf_counter(), situation.prefix_s
    method.choose(situation)
    return time.perf_counter() - started - (situation.prefix_s - prefix)


def _stock(situation: Situation, layers: set[str] | None, *, cached: bool = False) -> float:
    """Seconds of the same adaptation by autograd, of all parameters or of those of some layers.

    With `cached` the blocks before the first of those layers compute every copy once.
    """
    module = copy.deepcopy(situation.backbone.module).to(  # type: ignore[call-overload]
        memory_format=torch.channels_last
    )
    trained = []
    for name, parameter in module.named_parameters():
        chosen = layers is None or (name.endswith(".weight") and name[: -len(".weight")] in layers)
        parameter.requires_grad_(chosen)
        trained += [parameter] if chosen else []
    before, rest = halves(module, layers) if cached and layers else (_same, module)
    labels, settings = situation.labels, situation.recipe
    everyone = torch.arange(situation.samples)
    started = time.process_time()
    with torch.no_grad():
        images = before(situation.images.contiguous(memory_format=torch.channels_last))
        copies = [
            before(
                situation.copies_of(torch.full_like(everyone, number), everyone).contiguous(
                    memory_format=torch.channels_last
                )
            )
            for number in range(settings.drawn_copies)
        ]
    pool = torch.stack(copies)
    optimizer = torch.optim.Adam(trained, 0.001, fused=cached)

    def logits(x: Tensor, means: Tensor) -> Tensor:
        normal = functional.normalize
        return settings.temperature * normal(rest(x)) @ normal(means).T

    for iteration in range(settings.iterations):
        with torch.no_grad():
            means = prototypes(rest(images), labels)
        shown = pool[situation.picks[iteration], everyone]
        optimizer.zero_grad()
        functional.cross_entropy(logits(shown, means), labels).backward()
        optimizer.step()
    with torch.no_grad():
        means = prototypes(rest(images), labels)
        logits(before(situation.query_images), means).argmax(1)
    return time.process_time() - started


def _same(x: Tensor) -> Tensor:
    return x


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="mcunet-5fps")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data", help="[default: the handwritten digits inside scikit-learn]")
    parser.add_argument("--device", default="jetson-nano")
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--ways", type=int, default=10)
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
