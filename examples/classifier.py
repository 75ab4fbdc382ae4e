"""A network with a head, planned for a microcontroller and written as C.

C learns by class means of features, which the built-in networks return, or by cross entropy over a
logit for each class. This one is for the latter: it has a linear head behind a built-in network,
which starts from a fixed seed. The commands take it from here:

    costsim plan --device stm32f746 --model examples.classifier:make --loss cross_entropy \
                 --out plan.json
    costsim export plan.json --out firmware
"""

import tempfile
from pathlib import Path

import torch
from torch import nn

from costsim.models.loading import load_model
from costsim.models.networks import NETWORKS

BACKBONE = "mcunet-5fps"
CLASSES = 10


class Classifier(nn.Sequential):
    """A backbone and its head, for square images of `resolution` pixels a side."""

    resolution = 128


def make() -> nn.Module:
    """MCUNet with costsim's own weights, and logits of ten classes."""
    backbone = load_model(BACKBONE).module
    torch.manual_seed(0)
    head = nn.Linear(NETWORKS[BACKBONE].features, CLASSES)
    return Classifier(backbone, head).eval()


def main() -> None:
    """Plan a step of 8-bit training and write it as C, as the commands above do."""
    from costsim.cli import main as costsim

    with tempfile.TemporaryDirectory() as folder:
        plan, firmware = Path(folder) / "plan.json", Path(folder) / "firmware"
        model = ["--model", "classifier:make", "--resolution", "64"]  # half the side: quicker
        asked = ["--device", "stm32f746", "--loss", "cross_entropy", "--out", str(plan)]
        if costsim(["plan", *asked, *model]) == 0:
            costsim(["export", str(plan), "--out", str(firmware)])


if __name__ == "__main__":
    main()
