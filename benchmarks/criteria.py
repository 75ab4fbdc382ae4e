"""How well each criterion predicts the accuracy that a plan reaches: rank correlation by domain.

For every task many plans of equal cost, random ones and the best by each criterion, are really
trained, at each of the learning rates; what counts is the best of them, because a criterion that
favours plans which change the network more needs a smaller one. Of each criterion: the rank
correlation, over the plans of a task, between the gain that it predicts and what training reached
(accuracy, and the log-likelihood of the query images, which is finer), as the mean over tasks with
its interval (`costsim.base.intervals`); and the accuracy of the plan that it calls best. One
line of JSON a task goes to `--out`; what is there already is not done again. With `--biases` biases
are scored and may be chosen as well: the best plan of each criterion is then tried with them and
without, and so is half of the random plans.

    python benchmarks/criteria.py --weights mcunet.pkl --domain signs=signs.tar.gz \\
        --domain letters=letters.zip --tasks 6 --plans 30 --out criteria.jsonl
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from costsim.base.intervals import Mean
from costsim.ir.operators import UpdateKind
from costsim.run.criteria.base import Criterion
from costsim.run.criteria.first_order import FirstOrder, FirstOrderAdam
from costsim.run.criteria.fisher import Fisher
from costsim.run.criteria.gradient_norm import GradientNorm
from costsim.run.criteria.l2_norm import L2Norm
from costsim.run.criteria.random import Random
from costsim.run.criteria.step_gain import StepGain
from costsim.run.criteria.weight_gradient import WeightGradient

CRITERIA: Mapping[str, Criterion] = {
    "fisher": Fisher(),
    "l2_norm": L2Norm(),
    "weight_gradient": WeightGradient(),
    "gradient_norm": GradientNorm(),
    "first_order": FirstOrder(),
    "first_order_adam": FirstOrderAdam(),
    "step_gain 0.001": StepGain(0.001),
    "step_gain 0.01": StepGain(0.01),
    "step_gain 0.1": StepGain(0.1),
    "step_gain sgd 1": StepGain(1.0, "sgd"),
    "random": Random(),
}

RATES = (0.0001, 0.0003, 0.001)
"""Unless others are given."""

PLAIN = ("channels", "biases", "layers", "parameters", "depth")
"""What a plan is like, as predictors: learned combinations start from these."""


def main() -> int:
    """Try the plans that are not in the file yet, then print the table."""
    options = _options()
    done = _read(options.out)
    done = [row for row in done if row.get("biases", False) == options.biases]
    keys = {(row["domain"], row["seed"]) for row in done}
    for domain, path in options.domain:
        for seed in range(options.first_seed, options.first_seed + options.tasks):
            if (domain, seed) in keys:
                continue
            started = time.perf_counter()
            row = _task(options, domain, path, seed)
            done.append(row)
            if options.out is not None:
                _append(options.out, row)
            print(
                f"{domain} {seed}: {len(row['plans'])} plans in "
                f"{time.perf_counter() - started:.0f} s",
                file=sys.stderr,
            )
    _print(done)
    return 0


def _task(options: argparse.Namespace, domain: str, path: str, seed: int) -> dict[str, Any]:
    from costsim.data import FixedEpisode, digits, open_source, sample_episode
    from costsim.device import load_device
    from costsim.ir.recipe import Recipe
    from costsim.learning.adaptation.one_task import adapt
    from costsim.learning.adaptation.place import Place
    from costsim.learning.adaptation.situation import Situation
    from costsim.learning.methods.correlation import (
        FixedPlan,
        designed_trials,
        gain_by_target,
        importances_of,
        predicted_gain,
        random_trials,
    )
    from costsim.learning.training.backbone import load_backbone

    backbone = load_backbone(
        options.model,
        weights=options.weights,
        resolution=options.resolution,
        device=options.torch_device,
    )
    source = digits() if path == "digits" else open_source(path)
    rule = FixedEpisode(min(options.ways, len(source.classes)), options.shots, 10)
    task = sample_episode(source, rule, seed=seed, resolution=backbone.input_shape[1:])
    situation = Situation(
        backbone,
        task,
        Place(load_device(options.device)),
        Recipe(iterations=options.iterations, copies=options.copies, seed=seed),
    )
    inspect = options.inspect
    axes: tuple[UpdateKind, ...] = ("output", "bias") if options.biases else ("output",)
    importances = importances_of(situation, CRITERIA, inspect=inspect, axes=axes)
    best = options.best or CRITERIA
    trials = designed_trials(situation, {name: importances[name] for name in best})
    trials += random_trials(situation, options.plans, seed, inspect=inspect, biases=options.biases)
    order = {name: place for place, name in enumerate(situation.graph.layers)}
    plans = []
    for trial in trials:
        outcomes = {
            rate: adapt(situation, FixedPlan(trial.plan, rate, trial.label))
            for rate in options.learning_rate or RATES
        }
        outcome = next(iter(outcomes.values()))
        memory, macs = outcome.cost.step.memory, outcome.cost.step.macs
        updated = {*trial.plan.by_layer, *trial.plan.biases}
        plans.append(
            {
                "label": trial.label,
                "accuracy": max(one.accuracy_after for one in outcomes.values()),
                "log_likelihood": max(one.log_likelihood for one in outcomes.values()),
                "by_rate": {
                    f"{rate:g}": [one.accuracy_after, one.log_likelihood]
                    for rate, one in outcomes.items()
                },
                "peak_bytes": memory.peak_bytes,
                "paper_bytes": memory.paper_bytes,
                "backward_macs": macs.backward,
                "channels": sum(len(subset.channels) for subset in trial.plan.subsets),
                "biases": len(trial.plan.biases),
                "layers": len(updated),
                "parameters": memory.updated_weight_bytes // 4,
                "depth": -min(order[layer] for layer in updated),
                "by_layer": {s.layer: len(s.channels) for s in trial.plan.subsets},
                "with_bias": sorted(trial.plan.biases),
                "predicted": {
                    name: predicted_gain(one, trial.plan) for name, one in importances.items()
                },
                "predicted_by_layer": {
                    name: gain_by_target(one, trial.plan) for name, one in importances.items()
                },
            }
        )
    return {
        "domain": domain,
        "seed": seed,
        "biases": options.biases,
        "before": situation.base_accuracy,
        "plans": plans,
    }


def _print(rows: list[dict[str, Any]]) -> None:
    from costsim.learning.methods.correlation import spearman

    domains = sorted({row["domain"] for row in rows})
    for measure in ("accuracy", "log_likelihood"):
        print(f"\nrank correlation of the predicted gain with the {measure} reached")
        print(f"{'':20s}" + "".join(f"{domain[:20]:>24s}" for domain in (*domains, "all")))
        for name in (*CRITERIA, *PLAIN):
            cells = []
            for domain in (*domains, None):
                found = []
                for row in rows:
                    if domain not in (row["domain"], None):
                        continue
                    reached = [plan[measure] for plan in row["plans"]]
                    predicted = [
                        plan.get(name, 0) if name in PLAIN else plan["predicted"][name]
                        for plan in row["plans"]
                    ]
                    found.append(spearman(predicted, reached))
                cells.append(_told(Mean.of(found), "+.2f"))
            print(f"{name:20s}" + "".join(f"{cell:>24s}" for cell in cells))
    print("\naccuracy after training the plan that each calls best, %")
    labels = [*CRITERIA, "random 0.3", "random 1", "random 2.5"]
    tried = {plan["label"] for row in rows for plan in row["plans"]}
    both = [label + end for label in labels for end in ("", " +biases") if label + end in tried]
    labels = ["before", *both]
    for label in labels:
        cells = []
        for domain in (*domains, None):
            found = [
                100 * float(np.mean([p["accuracy"] for p in row["plans"] if p["label"] == label]))
                if label != "before"
                else 100 * row["before"]
                for row in rows
                if domain in (row["domain"], None)
                and (label == "before" or any(p["label"] == label for p in row["plans"]))
            ]
            if not found:
                cells.append("-")
                continue
            cells.append(_told(Mean.of(found), ".1f"))
        print(f"{label:26s}" + "".join(f"{cell:>24s}" for cell in cells))


def _told(mean: "Mean | None", form: str) -> str:
    """A mean with half its interval, where one is claimed; a dash where nothing was seen."""
    if mean is None:
        return "-"
    half = "" if mean.half is None else f" ± {mean.half:{form.removeprefix('+')}}"
    return f"{mean.value:{form}}{half}"


def _read(path: Path | None) -> list[dict[str, Any]]:
    if path is None or not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with suppress(json.JSONDecodeError):  # one that a kill cut short is not there
            found.append(json.loads(line))
    return found


def _append(path: Path, row: dict[str, Any]) -> None:
    """On a line of its own, whatever the last run left."""
    with path.open("ab+") as file:
        if file.tell() and (file.seek(-1, 2), file.read(1))[1] != b"\n":
            file.write(b"\n")
        file.write(json.dumps(row).encode() + b"\n")


def _domain(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    return (name, path) if equals else (Path(text).name.partition(".")[0], text)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="mcunet-5fps")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--device", default="jetson-nano")
    parser.add_argument("--torch-device", default="cpu")
    parser.add_argument("--domain", type=_domain, action="append", metavar="[NAME=]PATH")
    parser.add_argument("--tasks", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0, help="of the tasks, the rest follow")
    parser.add_argument("--plans", type=int, default=6, help="random ones, of each task")
    parser.add_argument(
        "--best",
        action="append",
        choices=CRITERIA,
        help="a criterion whose best plan is tried (default: of every one)",
    )
    parser.add_argument("--ways", type=int, default=10)
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--copies", type=int, default=8)
    parser.add_argument("--inspect", type=int, default=18)
    parser.add_argument("--biases", action="store_true", help="biases may be chosen too")
    parser.add_argument("--learning-rate", type=float, action="append", metavar="RATE")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.domain = options.domain or [("digits", "digits")]
    return options


if __name__ == "__main__":
    sys.exit(main())
