"""Images a second of meta-training, against a plain PyTorch loop over the same images.

    python benchmarks/pretraining.py [--side 64] [--steps 20]

The plain loop takes batches that lie in memory already: forward, the loss of a classifier,
backward, AdamW, in PyTorch's default layout. Meta-training draws episodes, augments them, takes the
two losses and keeps its own running statistics; what that costs, and what channels_last gains, is
the ratio. The two take turns, so that a busy machine slows both; the median of their ratios is
reported with its quartiles.
"""

import argparse
import json
import statistics
import time

import torch
from torch.nn import functional

from costsim.data import digits
from costsim.learning.pretraining.backbone import load_backbone
from costsim.learning.pretraining.parallel import choose_device
from costsim.learning.pretraining.pool import load_pool
from costsim.learning.pretraining.run import Pretraining
from costsim.learning.pretraining.settings import PretrainSettings, Stage


def main() -> None:
    """Measure and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mcunet-5fps")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device")
    given = parser.parse_args()
    device = choose_device(given.device)
    settings = PretrainSettings(
        steps=1000, ways=(8, 8), shots=(6, 6), queries=6, stages=(Stage(given.side, 1.0),),
        augmentation="characters", held_out=0.2,
    )  # fmt: skip
    pool = load_pool([digits()], given.side, settings.held_out)

    def backbone() -> torch.nn.Module:
        return load_backbone(given.model, weights=None, seed=0, resolution=128)[0]

    features = backbone().eval()(torch.zeros(1, 3, given.side, given.side)).shape[1]
    training = Pretraining(backbone(), features, pool, settings, device)
    batch = 8 * 12
    plain = torch.nn.Sequential(backbone(), torch.nn.Linear(features, 64)).to(device).train()
    optimizer = torch.optim.AdamW(plain.parameters())
    images = torch.rand(batch, 3, given.side, given.side, device=device) * 2 - 1
    labels = torch.arange(batch, device=device) % 64

    def plain_step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(plain(images), labels).backward()
        optimizer.step()

    def seconds(step: object) -> float:
        assert callable(step)
        wait(device)
        begun = time.perf_counter()
        step()
        wait(device)
        return time.perf_counter() - begun

    for _ in range(3):
        training.step()
        plain_step()
    times = [(seconds(training.step), seconds(plain_step)) for _ in range(given.steps)]
    ratios = [theirs / ours for ours, theirs in times]
    first, median, third = statistics.quantiles(ratios, n=4)
    print(
        json.dumps(
            {
                "model": given.model,
                "side": given.side,
                "device": str(device),
                "images_a_step": batch,
                "pretrain_images_a_second": batch / statistics.median(t for t, _ in times),
                "plain_images_a_second": batch / statistics.median(t for _, t in times),
                "ratio": {"median": median, "quartiles": [first, third]},
            },
            indent=2,
        )
    )


def wait(device: torch.device) -> None:
    """Until the device has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
