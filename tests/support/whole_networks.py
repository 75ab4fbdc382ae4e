"""The zoo and the built-in networks as models, as traces, and as copies to be changed."""

import copy
from functools import cache

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from zoo import ZOO

from costsim.ir.graph import LayerGraph
from costsim.models.networks.build import build
from costsim.models.tracing.capture import Traced, capture

BATCH = 2


@cache
def network(name: str, dtype: torch.dtype) -> nn.Module:
    """One of the zoo or a built-in one, with random weights; shared, so not to be changed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ZOO[name]() if name in ZOO else build(name, seed=0)
        for module in model.modules():  # statistics that do something
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        return model.eval().to(dtype)


@cache
def traced(name: str, dtype: torch.dtype) -> Traced:
    """That network on black images of 32 x 32."""
    return capture(network(name, dtype), torch.zeros(BATCH, 3, 32, 32, dtype=dtype))


def fresh(name: str, dtype: torch.dtype) -> tuple[nn.Module, LayerGraph, dict[str, torch.Tensor]]:
    """A model to change, its graph, and its tensors: the same memory, as in `Traced`."""
    found = traced(name, dtype)
    model, tensors = copy.deepcopy((network(name, dtype), dict(found.tensors)))
    return model, found.graph, tensors


def flat_cross_entropy(output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy of logits that may be maps of one pixel."""
    return F.cross_entropy(output.flatten(1), labels)
