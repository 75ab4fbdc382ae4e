"""What a sparing recipe and a cache are worth: predicted on a board, and measured here.

A 10-way 5-shot task and 40 iterations, as the paper adapts. On the board, the whole adaptation by
the full recipe with nothing kept (every image in every iteration through all of the network, class
means anew each time) beside what `costsim plan --task-time` plans within a share of its minutes.
Here, the iterations of both plans by the loop of `train` and `adapt`, once with nothing kept and
once with everything kept, taking turns: the ratio is that within a round, of processor seconds.

    python benchmarks/recipes.py [--share 0.25] [--resolution 128] [--repeats 3] [--threads 1]
                                 [--backend native]
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import torch

from costsim.data import FixedEpisode, digits, sample_episode
from costsim.device import load_device
from costsim.ir.plan import UpdatePlan
from costsim.ir.recipe import Recipe
from costsim.learning.adaptation.loop import train
from costsim.learning.adaptation.place import Place
from costsim.learning.adaptation.situation import Situation
from costsim.learning.training.backbone import load_backbone
from costsim.planning import PlanRequest, make_plan
from costsim.problem.task_budget import TaskBudget
from costsim.run.native import BACKENDS
from costsim.solving.planfile import AdaptationRecord, PlanFile

NETWORKS = ("mcunet-5fps", "mbv2-w0.35", "proxyless-w0.3")


def main() -> int:
    """Plan, run the rounds and print the table."""
    options = _options()
    torch.set_num_threads(options.threads)
    print(
        f"{'':16s}{'predicted on ' + options.device:>44s}{'':>10s}{'here':>10s}\n"
        f"{'':16s}{'minutes':>16s}{'joules':>16s}{'peak KiB':>14s}{'gain':>8s}{'ratio':>10s}"
    )
    for name in NETWORKS:
        full, sparing = _plans(name, options)
        before, after = _whole(full), _whole(sparing)
        uncached = next(one for one in before.alternatives if one.value == "nothing")
        assert uncached.latency_s is not None
        assert uncached.energy_j is not None
        assert after.latency_s is not None
        assert after.energy_j is not None
        ratios = sorted(_rounds(name, full, sparing, options))
        kept = (sparing.solver.objective or 0.0) / (full.solver.objective or 1.0)
        minutes = f"{uncached.latency_s.value / 60:.2f} → {after.latency_s.value / 60:.2f}"
        joules = f"{uncached.energy_j.value:.0f} → {after.energy_j.value:.0f}"
        peaks = f"{before.peak_bytes >> 10} → {after.peak_bytes >> 10}"
        low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
        print(
            f"{name:16s}{minutes:>16s}{joules:>16s}{peaks:>14s}{kept:>8.1%}"
            f"{statistics.median(ratios):>10.3f} ({low:.3f} to {high:.3f})"
        )
        recipe = sparing.recipe
        print(
            f"{'':16s}1 of {recipe.image_interval} images in each iteration, "
            f"{recipe.copies} copies, class means of 1 in {recipe.means_interval}, "
            f"kept in {recipe.cache_in}; {sparing.solver.status}"
        )
    return 0


def _plans(name: str, options: argparse.Namespace) -> tuple[PlanFile, PlanFile]:
    """Without a budget of the whole, and within a share of what it takes with nothing kept."""
    request = PlanRequest(
        load_device(options.device), model=name, resolution=options.resolution, ways=10, shots=5
    )
    full = make_plan(request).file
    uncached = next(one for one in _whole(full).alternatives if one.value == "nothing")
    assert uncached.latency_s is not None
    assert uncached.energy_j is not None
    budget = TaskBudget(
        latency_s=options.share * uncached.latency_s.value,
        energy_j=options.share * uncached.energy_j.value,
    )
    return full, make_plan(replace(request, task_budget=budget)).file


def _whole(file: PlanFile) -> AdaptationRecord:
    assert file.predicted is not None
    assert file.predicted.adaptation is not None
    return file.predicted.adaptation


def _rounds(
    name: str, full: PlanFile, sparing: PlanFile, options: argparse.Namespace
) -> Iterator[float]:
    """Processor seconds of the sparing iterations over those of the full ones, round by round."""
    backbone = load_backbone(name, resolution=options.resolution, backend=options.backend)
    task = sample_episode(
        digits(), FixedEpisode(10, 5, 0), seed=0, resolution=backbone.input_shape[1:]
    )
    place = Place(load_device(options.device))

    def seconds(plan: UpdatePlan, recipe: Recipe, cache_bytes: int) -> float:
        situation = Situation(backbone, task, place, recipe, cache_bytes=cache_bytes)
        situation.make_ready()
        started = time.process_time()
        train(situation, plan, recipe.rate).update.restore()
        return time.process_time() - started

    for number in range(options.repeats + 1):  # the first round warms up
        spared = seconds(sparing.plan, sparing.recipe, 2**30)
        uncached = seconds(full.plan, full.recipe, 0)
        print(f"{name}: round {number} of {options.repeats}", file=sys.stderr)
        if number:
            yield spared / uncached


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="pi-zero-2")
    parser.add_argument("--share", type=float, default=0.25, help="of the minutes and joules")
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--backend", choices=BACKENDS, default=BACKENDS[0])
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
