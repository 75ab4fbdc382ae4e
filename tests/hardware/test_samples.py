"""Networks whose samples are not along the first dimension everywhere, cut, adapted and scored."""

from collections.abc import Callable, Mapping

import pytest
import torch
from by_default import by_default
from torch import Tensor, nn
from zoo import ZOO

from costsim.ir.cuts import cuts
from costsim.ir.sample_axes import first_without_samples, sample_axes
from costsim.learning.training.backbone import Backbone
from costsim.learning.training.frozen_values import advance
from costsim.models.tracing import trace

SIDE = 32
TOKENS = 16
"""As many as samples in one pass, so that one could be taken for the other."""


class TokensFirst(nn.Module):
    """Attention as torch has it by default: tokens, samples, features."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 8, 8)
        self.attention = nn.MultiheadAttention(8, 2)
        self.inner, self.head = nn.Linear(8, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).permute(2, 0, 1)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(self.inner(x).relu()).mean(0)


class Cells(nn.Module):
    """A GRU over rows, whose first state is a constant as large as the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.cells = nn.Conv2d(3, 4, (8, 8), (8, 8)), nn.GRU(16, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.cells(self.rows(x).permute(0, 2, 1, 3).flatten(2))[0][:, -1]


NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    **ZOO, "tokens first": TokensFirst, "cells": Cells
}  # fmt: skip


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name]().double().eval()


@pytest.mark.parametrize("name", by_default(NETWORKS, NETWORKS.keys() - {"cells"}))
def test_what_is_known_of_samples_is_what_another_batch_shows(name: str) -> None:
    model = made(name)
    three, five = (trace(model, torch.zeros(n, 3, SIDE, SIDE).double()) for n in (3, 5))
    known, again = sample_axes(three), sample_axes(five)
    assert {n: axis for n, axis in known.items() if axis is not None} == {
        n: axis for n, axis in again.items() if axis is not None
    }
    for call in three.calls:
        axis = known[call.name]
        if axis is not None:
            shape = list(call.shape)
            assert shape[axis] == 3
            shape[axis] = 5
            assert tuple(shape) == five[call.name].shape


@pytest.mark.parametrize("function", [torch.softmax, torch.log_softmax])
@pytest.mark.parametrize("dimension", [0, 1, 2])
def test_a_softmax_over_samples_mixes_them(function: Callable[..., Tensor], dimension: int) -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x, dimension).sigmoid()

    graph = trace(Model().eval(), torch.zeros(3, 4, 5))
    assert sample_axes(graph)[graph.output] == (None if dimension == 0 else 0)


@pytest.mark.parametrize(
    "name", by_default(["tiny", "tokens first", "cells"], ["tiny", "tokens first"])
)
def test_a_network_may_be_cut_at_every_cut(name: str) -> None:
    backbone = Backbone(made(name), (3, SIDE, SIDE), name=name)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(12, 3, SIDE, SIDE, generator=generator).double()
    assert backbone.pass_size(len(images)) == TOKENS
    wanted = backbone.features(images)
    graph = backbone.graph(1)
    for cut in cuts(graph):
        values = advance(backbone, images, graph.input, cut)
        assert len(values) == len(images)
        torch.testing.assert_close(advance(backbone, values, cut), wanted)


def test_values_with_tokens_first_are_told_from_samples() -> None:
    graph = trace(made("tokens first"), torch.zeros(TOKENS, 3, SIDE, SIDE).double())
    assert graph["inner"].shape[0] == graph.batch
    assert first_without_samples(graph, ["patches", "inner"]) == "inner"
    assert first_without_samples(graph, ["patches", graph.output]) is None
