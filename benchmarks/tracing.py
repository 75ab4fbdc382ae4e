"""Processor seconds to trace a network: `torch.export` alone, and all of `trace`.

    python benchmarks/tracing.py [--repeats N] [--layers 100,300,1000]

A ResNet-50 at 224×224, and chains of so many 3×3 convolutions, each with batch norm and a ReLU in
place, whose growth is the exponent between one and the next. Least of the repetitions, in turn.
"""

import argparse
import math
import time
import warnings
from collections.abc import Callable

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from costsim.models.tracing import trace


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions and a skip."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """`[N, inputs, h, w]` to `[N, 4 width, h / stride, w / stride]`."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += self.downsample(x)
        out: Tensor = self.relu(y)
        return out


def resnet50() -> nn.Module:
    """ResNet-50 with its 53 convolutions and 1,000 classes."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
    ]  # fmt: skip
    inputs = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 * 2**stage
        for block in range(blocks):
            layers.append(Bottleneck(inputs, width, 2 if stage and not block else 1))
            inputs = 4 * width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000)]
    return nn.Sequential(*layers).eval()


def chain(layers: int) -> nn.Module:
    """So many convolutions of 8 channels one after another."""
    parts: list[nn.Module] = [nn.Conv2d(3, 8, 3, padding=1)]
    for _ in range(layers - 1):
        parts += [nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)]
    return nn.Sequential(*parts).eval()


def main() -> int:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--layers", default="100,300,1000")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    table = Table("network", "layers", "torch.export", "trace", "ratio", "growth", box=SIMPLE_HEAD)
    small, large = torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 224, 224)
    _times(chain(2), small, 1)  # what torch loads and sets up the first time
    model = resnet50()
    export, whole = _times(model, large, options.repeats)
    count = sum(isinstance(m, nn.Conv2d | nn.BatchNorm2d | nn.Linear) for m in model.modules())
    table.add_row("ResNet-50", *_row(count, export, whole))
    before: tuple[int, float] | None = None
    for count in map(int, options.layers.split(",")):
        export, whole = _times(chain(count), small, options.repeats)
        growth = ""
        if before is not None:
            growth = f"n^{math.log(whole / before[1]) / math.log(count / before[0]):.2f}"
        before = count, whole
        table.add_row("chain of convolutions", *_row(count, export, whole), growth)
    Console().print(table)
    return 0


def _row(count: int, export: float, whole: float) -> tuple[str, ...]:
    return f"{count:,}", f"{export:.2f} s", f"{whole:.2f} s", f"{whole / export:.2f}"


def _times(model: nn.Module, x: Tensor, repeats: int) -> tuple[float, float]:
    """The least seconds of `torch.export` and of `trace`, in turn."""
    found = [
        (_seconds(lambda: torch.export.export(model, (x,))), _seconds(lambda: trace(model, x)))
        for _ in range(repeats)
    ]
    return min(export for export, _ in found), min(whole for _, whole in found)


def _seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


if __name__ == "__main__":
    raise SystemExit(main())
