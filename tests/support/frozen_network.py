"""A network most of whose parameters its author froze."""

import torch
from torch import nn
from zoo import ZOO

ADAPTED = {"fc.weight", "fc.bias", "layer4.0.conv2.weight", "bn1.bias"}
"""What its author trains; the rest is frozen."""


def adapted() -> nn.Module:
    """A small ResNet of which `ADAPTED` can be trained."""
    torch.manual_seed(0)
    model = ZOO["resnet18"]().eval()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in ADAPTED)
    return model
